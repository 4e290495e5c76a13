"Every tutorial runs in JupyterLab from top to bottom without an error; cells flagged slow or cuda are left out, as in nbdev_test."
import re
import nbformat
import pytest
from .lab import OUT, ROOT, Notebook

TUTORIALS = sorted((ROOT/'nbs/tutorials').glob('*.ipynb'))

def without_slow_cells(path):
    nb = nbformat.read(path, 4)
    nb.cells = [c for c in nb.cells if c.cell_type != 'code' or not re.search(r'^#\|\s*(slow|cuda|eval:\s*false)', c.source, re.M)]
    return nb

@pytest.mark.parametrize('path', TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(server, browser, path):
    with Notebook(server, browser, without_slow_cells(path), f'{path.stem}/{path.name}') as nb:
        nb.run(200)
        assert nb.errors() == []
        if any('widget-view' in str(o.get('data', {}).keys()) for c in nb.cells() for o in c.get('outputs', [])):
            nb.show(f'{OUT} .ddnb-view')
