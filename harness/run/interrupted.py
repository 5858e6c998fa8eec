"""Ctrl-C in the middle of several cases or categories."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a message that says how much is finished and how to continue."""

    def __init__(
        self, done: int, total: int, finished: str, *, continues: str = "the same command continues"
    ) -> None:
        super().__init__(f"interrupted: {done} of {total} {finished}; {continues}")
