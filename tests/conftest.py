"One thread: the same bytes on every machine, and many small operations do not wait for each other. Subprocesses inherit it."

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
