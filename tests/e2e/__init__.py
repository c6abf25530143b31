"""`sidecar run` as a process, with a real RabbitMQ before it and real clients behind it; only the contract is used.

Strategy: one process serves most tests of the session, on routes whose last segment is the test's own name, so that
tests share nothing but the process. What must be killed, stopped or misconfigured has a process of its own.
"""
