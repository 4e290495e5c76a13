"`ddnb health` prints what is wrong, and writes a list."

import csv

from PIL import Image

from ddnb.recipe.command import main


def tree(root):
    "Two classes of pictures, one of them in both, one of them twice."
    for c, name in enumerate(("ant", "bee")):
        for i in range(20):
            (root / "train" / name).mkdir(parents=True, exist_ok=True)
            shade = Image.effect_noise((16, 16), 60 + 40 * c)
            shade.save(root / "train" / name / f"{i:02}.png")
    for name in ("ant", "bee"):
        (root / "test" / name).mkdir(parents=True)
        for i in range(3):
            known = Image.open(root / "train" / name / f"{i:02}.png")
            known.save(root / "test" / name / f"{i:02}.png")
    return root


def test_a_folder_with_leaks(tmp_path, capsys):
    folder, out = tree(tmp_path / "set"), tmp_path / "found.csv"
    assert main(["health", str(folder), "--size=16", f"--out={out}"]) == 0
    said = capsys.readouterr()
    assert "! leaks" in said.out and "6 test images equal to train images" in said.out
    assert "6 of 6 test images of set are train images too" in said.err
    rows = list(csv.DictReader(out.open()))
    leaks = [r for r in rows if r["check"] == "leaks"]
    assert len(leaks) == 12 and {r["split"] for r in leaks} == {"train", "test"}
    assert main(["health", str(folder), f"--out={out}"]) == 1
    assert "exists already" in capsys.readouterr().err


def test_what_cannot_be_looked_at_is_a_sentence(tmp_path, capsys):
    assert main(["health", str(tmp_path / "nothing")]) == 1
    assert main(["health", "digits", "--near=7"]) == 2
    assert main(["health", "digits", "--nera=.3"]) == 2
    assert "Did you mean '--near'" in capsys.readouterr().err
