"""`queueport chaos`: run jobs while processes are killed, stopped and replaced, and judge what became of each job.

`plan` chooses the faults from a seed, `world` starts the processes and carries the faults out, `ledger` keeps what
tasks and producers saw, `verdict` compares it with the records, and `report` prints the outcome. `run` is the order of
events. Nothing here imports pytest.
"""
