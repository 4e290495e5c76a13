"Everything about the package is in settings.ini; this file only hands it to setuptools."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
lib = cfg["lib_name"]
extras = {
    k.removesuffix("_requirements"): cfg[k].split() for k in cfg if k.endswith("_requirements")
}


class WithBeside(build_py):
    """Put the tutorial notebooks and the presets into the wheel.

    They have one place, nbs/tutorials and nbs/presets; a checkout reads them from there.
    """

    def run(self):
        super().run()
        for p in [] if self.editable_mode else beside():
            to = Path(self.build_lib) / lib / p.parent.name / p.name
            to.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(p), str(to))


def beside():
    "Files of the package that no notebook exports."
    nbs = here / "nbs"
    return sorted([*nbs.glob("tutorials/*.ipynb"), *nbs.glob("presets/*.yaml")])


setup(
    name=lib,
    version=cfg["version"],
    description=cfg["description"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    python_requires=">=" + cfg["min_python"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=[lib, lib + ".*"]),
    include_package_data=True,
    package_data={lib: ["sets/*.safetensors"]},
    zip_safe=False,
    cmdclass={"build_py": WithBeside},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{lib}={lib}._modidx:d"],
    },
)
