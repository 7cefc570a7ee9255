"""One module for each library that is measured: how it enqueues a job, and the command that starts its worker."""
