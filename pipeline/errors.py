"""Errors that are meant for a person.

Everything that can go wrong because of the world (a bad parameter, a missing file, no network, a full disk) is raised as a
`PipelineError` whose text says what was wrong, where, and what to do next. The command line prints that text alone and exits
with status 1; a traceback means a defect of this project.
"""


class PipelineError(Exception):
    """Something that the person at the keyboard can put right; `str(error)` is the whole message."""
