"""The smallest function: it greets, and tells which Python answered.

    lambimg build examples/hello --base host -t hello
"""

import platform


def handler(event, context):
    name = event.get("name", "world")
    # Text beyond ASCII shows the runtime's own rule: escaped up to Python 3.11, plain from 3.12.
    return {"greeting": f"Grüße, {name}!", "python": platform.python_version()}
