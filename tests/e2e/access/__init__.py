"""Who may read, asked of a whole process over real connections.

The tables of all hostile tokens, origins and addresses are in `tests.access`, asked of the gate alone; here is a sample
of each, with what follows from it: bindings, queues, replay, the log.
"""
