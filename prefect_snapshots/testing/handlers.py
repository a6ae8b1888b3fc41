"""The tests that every handler of artifact values must pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ..artifacts import ArtifactRegistry, Handler
from ..artifacts.handlers import find_handler
from ..errors import DamagedVersion, PickleRefused, SnapshotsError, UnserialisableValue


class HandlerContract:
    """Tests that every handler must pass. Inherit this class in your tests, and provide values.

    Attributes:
        name: The name of the handler in the entry-point group `prefect_snapshots.handlers`.
        needs_pickle: Whether it refuses to work where pickle is not allowed. Default: False.

    Example:
        ```python
        class TestRows(HandlerContract):
            name = "csv"

            @pytest.fixture
            def values(self):
                return [[["a", "b"], ["c", "d"]], []]
        ```
    """

    name: str
    needs_pickle = False

    @pytest.fixture
    @abstractmethod
    def values(self) -> Sequence[Any]:
        """Return at least two different values that the handler can write."""

    @pytest.fixture
    def refused(self) -> Sequence[Any]:
        """Return values that the handler cannot write. Default: none."""
        return []

    def same(self, one: Any, other: Any) -> bool:
        """Return whether a loaded value equals the saved one. Override it for values without `==`."""
        return bool(one == other)

    @pytest.fixture
    def handler(self) -> Handler:
        """Return the handler that is registered under the name."""
        return find_handler(self.name)

    @pytest.fixture
    def registry(self, tmp_path: Path) -> ArtifactRegistry:
        """Return a new registry."""
        return ArtifactRegistry(tmp_path / "repository")

    def test_values_come_back(self, registry: ArtifactRegistry, values: Sequence[Any]) -> None:
        for number, value in enumerate(values):
            registry.log_artifact("value", value, self.name)
            assert self.same(registry.load_artifact("value", number), value)

    def test_equal_values_are_stored_once(self, registry: ArtifactRegistry, values: Sequence[Any]) -> None:
        for value in values:
            sizes = [registry.log_artifact("value", value, self.name) for _ in range(2)]
            first, second = (registry.get_artifact("value", version.version) for version in sizes)
            assert first.size == second.size
            assert list(registry.diff("value", first.version, second.version)) == []

    def test_different_values_differ(self, registry: ArtifactRegistry, values: Sequence[Any]) -> None:
        for value in values[:2]:
            registry.log_artifact("value", value, self.name)
        assert list(registry.diff("value", 0, 1))

    def test_a_download_is_a_file_with_the_suffix(
        self, registry: ArtifactRegistry, handler: Handler, values: Sequence[Any]
    ) -> None:
        assert handler.suffix == handler.suffix.strip(".")
        registry.log_artifact("value", values[0], self.name)
        with registry.download_artifact("value") as folder:
            assert (folder / f"value.{handler.suffix}").is_file()

    def test_the_environment_is_versions_by_name(self, handler: Handler, values: Sequence[Any]) -> None:
        for value in values:
            for name, version in handler.environment(value).items():
                assert isinstance(name, str)
                assert isinstance(version, str)

    def test_what_cannot_be_written_saves_nothing(self, registry: ArtifactRegistry, refused: Sequence[Any]) -> None:
        for value in refused:
            with pytest.raises((UnserialisableValue, SnapshotsError)):
                registry.log_artifact("value", value, self.name)
        assert not registry.exists("value")

    def test_pickle_is_only_used_with_permission(self, handler: Handler, values: Sequence[Any]) -> None:
        for value in values:
            if self.needs_pickle:
                with pytest.raises(PickleRefused):
                    handler.write(value, allow_pickle=False)
            else:
                handler.write(value, allow_pickle=False)

    def test_damage_is_never_a_value(self, registry: ArtifactRegistry, tmp_path: Path, values: Sequence[Any]) -> None:
        registry.log_artifact("value", values[0], self.name)
        for path in (tmp_path / "repository").rglob("*"):
            if path.is_file() and path.name != "repository.json":
                path.chmod(0o600)
                path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises((DamagedVersion, SnapshotsError)):
            ArtifactRegistry(tmp_path / "repository").load_artifact("value")
