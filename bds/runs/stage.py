"""A stage of its own over the planned rows of a run, so that several read one plan and each resumes by itself."""

from bds.runs.directory import RunDirectory

_ROWS = "rows/"


class StageDirectory(RunDirectory):
    """A folder of a run, in which `rows/` is the run's own: shards are read, scored and committed as in the run itself.

    Everything that is written goes to the folder. Pickles as a RunDirectory does.
    """

    def __init__(self, planned: RunDirectory, uri: str) -> None:
        """
        Args:
            planned: the run that was planned.
            uri: of the stage's folder, which may be in another run.
        """
        super().__init__(uri)
        self._planned = planned

    def __reduce__(self) -> tuple[type["StageDirectory"], tuple[RunDirectory, str]]:
        return StageDirectory, (self._planned, self.uri)

    def read_bytes(self, name: str) -> bytes:
        return self._planned.read_bytes(name) if name.startswith(_ROWS) else super().read_bytes(name)

    def url_of(self, name: str) -> str:
        return self._planned.url_of(name) if name.startswith(_ROWS) else super().url_of(name)
