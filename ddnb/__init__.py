__version__ = "0.1.0"

import os
import sys

if os.environ.get('IN_TEST') and 'OMP_NUM_THREADS' not in os.environ:
    # nbdev_test runs a notebook per core: more threads than that wait for each other, five times as long
    os.environ['OMP_NUM_THREADS'] = '1'
    if 'torch' in sys.modules: sys.modules['torch'].set_num_threads(1)
