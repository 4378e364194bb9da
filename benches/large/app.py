"""A handler over the large set of packages; it is built, never called."""


def handler(event, context):
    return "ok"
