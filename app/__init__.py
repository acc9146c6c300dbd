"""The front door: settings, the command line, and `create_app`, which puts the stack together. Imported by nobody."""

import warnings

# Connexion imports Starlette's test client, which asks for a package that only tests would want.
warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient` is deprecated")
