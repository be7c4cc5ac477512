"""One thread: the models of the tests are tiny, and threads that wait for each other slow a busy machine down."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
