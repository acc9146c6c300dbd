"""The front door. It knows all other rooms, and none of them imports it.

application  puts the stack together: `create_app`
settings     all configuration, from the environment
cli          the command line
http/        bytes, limits, processes, and whether there is room
observe/     logs, metrics and traces
probes       health and readiness
pages        the first page, the contract and its documentation
"""

import warnings

# Connexion imports Starlette's test client, which warns that it would like another package. Nothing here uses it.
warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient` is deprecated")
