"""Prints the lowest versions that setup.cfg allows, as requirements for pip: `torch==2.13 transformers==5.20 …`.

Names given are extras whose packages are wanted too.
"""

import re
import sys
from configparser import ConfigParser
from pathlib import Path

settings = ConfigParser(interpolation=None)
settings.read(Path(__file__).parents[1] / "setup.cfg")
requirements = settings["options"]["install_requires"]
requirements += "".join(settings["options.extras_require"][extra] for extra in sys.argv[1:])
print(*(f"{name}=={version}" for name, version in re.findall(r"^([\w-]+)>=([\d.]+)", requirements, re.MULTILINE)))
