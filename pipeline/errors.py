"""Errors that are meant for a person."""


class PipelineError(Exception):
    """What the world did wrong (a bad parameter, a missing file, no network, a full disk) and a person can put right.

    Its text says what was wrong, where, and what to do next. The command line prints that alone and exits with status 1; a
    traceback means a defect of this project.
    """
