"""The benchmark: `sidecar` beside what a user would otherwise pick, in one run, interleaved, on one machine.

Strategy: every server is a program of its own in a session of its own, fed from the same RabbitMQ; what it costs is
read from the kernel (the CPU clock of each of its processes, their proportional share of memory), what it delivers is
counted and timed by a compiled client (`load.c`) at every stream. Beside it runs the floor (`floor.c`), a bare loop of
`send()`, and every figure is shown with its ratio to that floor.

`python -m bench` builds the parts (`build`), starts a throwaway broker (`broker`), drives the works (`works`) over the
servers (`servers`), and writes a table, one JSON and one picture (`report`, `picture`).
"""
