"""Hundreds of processes read the same modules: they are compiled once, whatever the shell says about bytecode."""

import os
import sys

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
