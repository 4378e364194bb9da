"""A handler in a sub-folder that is no package."""


def handler(event, context):
    return __name__
