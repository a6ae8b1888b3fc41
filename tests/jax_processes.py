"""A run of several JAX processes on this machine: `Run` starts it, and has all of its processes do the same.

As a program, it is one of these processes: it takes one call after the other from its input, and prints the results.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

ROWS, COLUMNS = 1024, 8192
"""Of the largest array, 32 MB: with one row of cells for each of four processes, each cell has two chunks of 4 MB."""
PATIENCE = 120.0


class Run:
    """The processes of one run, and their answers."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self.processes = processes

    def call(self, what: str, only: Sequence[int] | None = None, **arguments: Any) -> list[Any]:
        """The answers of all processes (or some) to the same call: values, or `{"error": class, "message": text}`."""
        chosen = [self.processes[index] for index in (range(len(self.processes)) if only is None else only)]
        for process in chosen:
            assert process.stdin is not None
            process.stdin.write(json.dumps([what, arguments]) + "\n")
            process.stdin.flush()
        return [self._answer(process) for process in chosen]

    def _answer(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        return {"error": "Ended", "message": f"exit status {process.wait(PATIENCE)}"}


@contextmanager
def jax_run(count: int, port: int, devices: int = 2) -> Iterator[Run]:
    """A run of so many processes with so many devices each."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, __file__, str(count), str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for index in range(count)
    ]
    try:
        yield Run(processes)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


# --- one process ------------------------------------------------------------------------------------------------------


@functools.cache
def expected(seed: int, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(seed).random(shape, np.float32)


@dataclasses.dataclass
class Record:
    """Of a class that only this script has, so that it is stored by value."""

    number: int
    pairs: list[Any]


class Pair(NamedTuple):
    """The same for a named tuple."""

    first: Any
    second: Any


class Worker:
    """What a process can be asked to do. Its devices form a grid: one row for each process."""

    def __init__(self, count: int, index: int) -> None:
        import jax

        self.index = index
        self.jax = jax
        devices = np.array(jax.devices()).reshape(count, -1)
        self.mesh = jax.sharding.Mesh(devices, ("x", "y"))
        self.managers: dict[str, Any] = {}

    def sharding(self, *axes: Any) -> Any:
        specification: Any = self.jax.sharding.PartitionSpec
        return self.jax.sharding.NamedSharding(self.mesh, specification(*axes))

    def array(self, seed: int, shape: tuple[int, ...], *axes: Any) -> Any:
        host = expected(seed, shape)
        return self.jax.make_array_from_callback(shape, self.sharding(*axes), lambda index: host[index])

    def state(self, step: int) -> dict[str, Any]:
        keys = self.jax.jit(
            lambda: self.jax.random.split(self.jax.random.key(step), 8), out_shardings=self.sharding("x")
        )
        return {
            "weights": self.array(1, (ROWS, COLUMNS), "x", None),
            "columns": self.array(step, (64, 256), None, ("x", "y")),
            "both": self.array(3, (64, 96, 2), "x", "y"),
            "bias": self.array(4, (96,), None),
            "keys": keys(),
            "step": step,
            "local": np.arange(5),
            "empty": self.array(5, (0, 4), None),
        }

    def preempted_at(self, who: int) -> int:
        """Return the step that is the last one for all processes, after one of them was told to stop."""
        from prefect_snapshots import PreemptionWatch

        with PreemptionWatch() as watch:
            for step in itertools.count():
                if step == 2 and self.index == who:
                    os.kill(os.getpid(), signal.SIGTERM)
                if watch.reached(step):
                    return step
        raise AssertionError

    def manager(self, url: str, **options: Any) -> Any:
        from prefect_snapshots import PyTreeSnapshotManager, Repository

        name = json.dumps([url, options], sort_keys=True)
        if name not in self.managers:
            storage, password = options.pop("storage", None), options.pop("password", None)
            repository = Repository(url, storage_options=storage, password=password)
            self.managers[name] = PyTreeSnapshotManager(repository, name="run", **options)
        return self.managers[name]

    def save(
        self,
        place: Mapping[str, Any],
        step: int,
        own: Mapping[str, Mapping[str, Any]] | None = None,
        fault: str | None = None,
        background: bool = False,
        **arguments: Any,
    ) -> Any:
        """Save a state. `own` has arguments of single processes, `fault` what happens to one of them."""
        manager = self.manager(**place)
        arguments.update((own or {}).get(str(self.index), {}))
        state = self.state(step)
        state["step"] = arguments.pop("value", step)
        with faulty(fault, self.index, manager):
            if background:
                saving = manager.save_async(state, **arguments)
                for leaf in self.jax.tree.leaves(state):
                    if isinstance(leaf, self.jax.Array):
                        leaf.delete()
                return saving.result()
            return manager.save_snapshot(state, **arguments)

    def load(self, place: Mapping[str, Any], snapshot_id: str, step: int, axes: Sequence[Any] | None = None) -> Any:
        """Load a state onto these devices, check it, and return how many bytes of packs were read."""
        import jax

        from prefect_snapshots.repository.location import LocalLocation

        manager = self.manager(**place)
        read = 0

        def counted(method: Any) -> Any:
            def counting(location: Any, path: str, start: int, what: Any) -> Any:
                nonlocal read
                if path.startswith("packs/"):
                    read += what if isinstance(what, int) else len(what)
                return method(location, path, start, what)

            return counting

        names = ("weights", "columns", "both")
        sharding = None if axes is None else {name: self.sharding(*axes) for name in names}
        with (
            patch.object(LocalLocation, "read_into", counted(LocalLocation.read_into)),
            patch.object(LocalLocation, "read_range", counted(LocalLocation.read_range)),
        ):
            found = manager.load_snapshot(snapshot_id, sharding=sharding)
        wanted = {
            "weights": expected(1, (ROWS, COLUMNS)),
            "columns": expected(step, (64, 256)),
            "both": expected(3, (64, 96, 2)),
            "bias": expected(4, (96,)),
        }
        for name, host in wanted.items():
            for shard in found[name].addressable_shards:
                assert np.array_equal(np.asarray(shard.data), host[shard.index]), name
            if sharding and name in sharding:
                assert found[name].sharding == sharding[name]
        keys = jax.random.key_data(jax.random.split(jax.random.key(step), 8))
        assert np.array_equal(np.asarray(jax.random.key_data(found["keys"])), np.asarray(keys))
        assert found["step"] == step
        assert np.array_equal(found["local"], np.arange(5))
        return read

    def zoo(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arrays of all kinds: in NumPy, and on grids of devices that are no multiples of processes, in any order."""
        import jax.numpy as jnp

        random = np.random.default_rng(7)
        devices, count = np.array(self.jax.devices()), len(self.jax.devices())
        hosts: dict[str, Any] = {}
        spread: dict[str, Any] = {}

        def put(name: str, host: Any, grid: Any, *axes: Any) -> None:
            mesh = self.jax.sharding.Mesh(grid, ("x", "y", "z")[: grid.ndim])
            partition: Any = self.jax.sharding.PartitionSpec
            sharding = self.jax.sharding.NamedSharding(mesh, partition(*axes))
            hosts[name] = host
            spread[name] = self.jax.make_array_from_callback(
                host.shape, sharding, lambda index: host[index], dtype=host.dtype
            )

        for number, axes in enumerate(
            [("x", "y", "z"), (("z", "x"), None, "y"), (None, None, "z"), ("y",), (None, ("x", "y", "z"))]
        ):
            grid = random.permutation(devices).reshape(2, 2, -1)
            put(f"grid{number}", random.random((8, 24, 6), np.float32), grid, *axes)
        matrix = random.integers(0, 2, (48, 8)).astype(np.float32)
        for dtype in (jnp.bfloat16, jnp.int4, jnp.float8_e4m3fn, jnp.float4_e2m1fn, np.bool_, np.complex64):
            put(np.dtype(dtype).name, matrix.astype(dtype), devices.reshape(2, -1), "x", "y")
        put("some", matrix, devices[3:6], "x")
        put("some replicated", matrix, devices[2:6].reshape(2, 2), None, "y")
        put("all replicated on some", matrix, devices[2:6], None)
        put("of the first", matrix, devices[:2], "x")
        put("no rows", matrix[:0], devices, "x")
        put("no columns", matrix[:, :0], devices, "x")
        put("scalar", np.full((), 3, np.float32), devices)
        put("scalar on some", np.full((), 4, np.float32), devices[3:])
        weak = self.jax.lax.convert_element_type_p.bind(
            spread["grid3"], new_dtype=np.dtype(np.float32), weak_type=True, sharding=None
        )
        keys = self.jax.jit(
            lambda: self.jax.random.split(self.jax.random.key(3, impl="rbg"), count), out_shardings=self.sharding("x")
        )
        extra = {
            "weak": weak,
            "keys": keys(),
            "record": Record(1, [Pair(spread["some"], None)]),
            "fortran": np.asfortranarray(matrix),
            "pickle": Exception("x" * (self.index + 1)),
            "after": spread["bool"],
        }
        return hosts, {**spread, **extra}

    def keep_zoo(self, place: Mapping[str, Any]) -> None:
        """Save the arrays of all kinds, and restore them as they were, and onto other devices."""
        hosts, value = self.zoo()
        manager = self.manager(**place)
        random = self.jax.random
        assert manager.save_snapshot(value, "zoo") == "zoo"
        for sharding in (None, self.sharding(), {name: value[name].sharding for name in (*hosts, "keys", "weak")}):
            found = manager.load_snapshot("zoo", sharding=sharding)
            for name, host in hosts.items():
                assert found[name].dtype == host.dtype, name
                for shard in found[name].addressable_shards:
                    assert np.asarray(shard.data).tobytes() == host[shard.index].tobytes(), (name, shard.index)
                if isinstance(sharding, dict):
                    assert found[name].sharding == sharding[name], name
            assert found["weak"].weak_type
            assert random.key_impl(found["keys"]) == "rbg"
            expected_keys = random.key_data(random.split(random.key(3, impl="rbg"), len(self.jax.devices())))
            for shard in found["keys"].addressable_shards:
                assert np.array_equal(random.key_data(shard.data), expected_keys[shard.index])
            assert type(found["record"]) is Record
            assert type(found["record"].pairs[0]) is Pair
            assert found["fortran"].flags.f_contiguous
            assert found["pickle"].args == ("x",), "that of process 0"

    def save_many(self, place: Mapping[str, Any], losses: Sequence[float]) -> list[Any]:
        """Save in the background with two managers, and pin a snapshot meanwhile."""
        from prefect_snapshots import PyTreeSnapshotManager

        manager = self.manager(**place)
        other: Any = PyTreeSnapshotManager(manager.repository, name="other", max_snapshots=1, rank_by="loss")
        array = self.array(2, (16, 4), "x", None)
        saves = []
        for number, loss in enumerate(losses):
            for each in (manager, other):
                saves.append(each.save_async({"w": array}, f"many{number}", {"loss": loss}))
            if number == 0:
                saves[0].result()
                manager.pin("many0")
        return [save.result() for save in saves]

    def promote(self, place: Mapping[str, Any]) -> str:
        from prefect_snapshots import ArtifactRegistry

        manager = self.manager(**place)
        return str(manager.promote("one", ArtifactRegistry(manager.repository), "model"))

    def train(self, place: Mapping[str, Any]) -> list[str]:
        """Save states of Optax, Equinox and Flax with the decorator, and restore them."""
        import equinox
        import jax.numpy as jnp
        import optax
        from flax import nnx

        from prefect_snapshots import snapshot

        jax = self.jax

        manager = self.manager(**place)
        params = {"w": self.array(1, (16, 8), "x", "y"), "b": self.array(2, (8,), None)}
        optimizer = optax.adamw(1e-3)
        layer = equinox.nn.MLP(4, 8, 16, 2, key=jax.random.key(0))
        spread, static = equinox.partition(layer, equinox.is_array)
        model = equinox.combine(jax.device_put(jax.device_get(spread), self.sharding()), static)
        module = nnx.Linear(8, 16, rngs=nnx.Rngs(0))
        state = nnx.state(module)

        @snapshot(name="run", repository=manager.repository, snapshot_id="step-{parameters[step]}")
        def step(step: int, params: Any, moments: Any) -> Any:
            gradients = jax.tree.map(jnp.ones_like, params)
            updates, moments = optimizer.update(gradients, moments, params)
            return {"params": optax.apply_updates(params, updates), "moments": moments, "mlp": model, "nnx": state}

        value = step(0, params, jax.jit(optimizer.init)(params))
        found = manager.load_snapshot("step-0", like=value)
        for mine, stored in zip(jax.tree.leaves(value), jax.tree.leaves(found), strict=True):
            if isinstance(mine, jax.Array):
                assert mine.sharding.is_equivalent_to(stored.sharding, mine.ndim)
                for one, other in zip(mine.addressable_shards, stored.addressable_shards, strict=True):
                    assert np.array_equal(one.data, other.data)
        assert jax.tree.structure(found) == jax.tree.structure(value)
        return list(manager)

    def ask(
        self,
        place: Mapping[str, Any],
        method: str,
        *arguments: Any,
        own: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Any:
        """Call a method of the manager."""
        options.update((own or {}).get(str(self.index), {}))
        found = getattr(self.manager(**place), method)(*arguments, **options)
        return found if isinstance(found, str | int | list | None) else str(found)


@contextmanager
def faulty(fault: str | None, index: int, manager: Any) -> Iterator[None]:
    """Let something happen in one process: `process what`."""
    process, _, what = (fault or "-1 ").partition(" ")
    if int(process) != index:
        yield
        return
    from prefect_snapshots.errors import CommitUnknown, StorageFull
    from prefect_snapshots.repository import Repository
    from prefect_snapshots.repository.tracking import TrackedStream
    from prefect_snapshots.snapshots import shared
    from prefect_snapshots.snapshots.processes import Turn

    def die(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    def fill(*_: Any, **__: Any) -> Any:
        raise StorageFull("the disk of this process is full")

    def interrupt(turn: Any, value: Any) -> Any:
        if not interrupted:
            interrupted.append(value)
            raise KeyboardInterrupt
        return answer(turn, value)

    def lose(*arguments: Any, **options: Any) -> Any:
        event = store(*arguments, **options)
        assert event is not None
        raise CommitUnknown(event.token.hex(), "no reply")

    def prune(*arguments: Any) -> Any:
        if not pruned:
            pruned.append(manager.repository.prune(grace=0))
        return join(*arguments)

    pruned: list[Any] = []
    interrupted: list[Any] = []
    answer, store = Turn.answer, TrackedStream.store
    join = shared.Shared._join
    faults: dict[str, tuple[Any, str, Any]] = {
        "is killed before it stores": (shared, "encode_shared", die),
        "is killed before it reports": (Turn, "report", die),
        "is killed while it waits": (Turn, "wait", die),
        "is killed before it commits": (shared.Shared, "_join", die),
        "is killed before it answers": (Turn, "answer", die),
        "is interrupted before it reports": (Repository, "stage", interrupt),
        "is interrupted before it answers": (Turn, "answer", interrupt),
        "loses the reply": (TrackedStream, "store", lose),
        "has a full disk": (Repository, "stage", fill),
        "prunes": (shared.Shared, "_join", prune),
    }
    with patch.object(*faults[what]):
        yield


def main(count: int, port: int, index: int) -> None:
    import jax

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if count > 1:
        configuration: Any = jax.config
        configuration.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=index)
    worker = Worker(count, index)
    for line in sys.stdin:
        what, arguments = json.loads(line)
        try:
            answer = getattr(worker, what)(**arguments)
        except (Exception, KeyboardInterrupt) as error:
            import traceback

            traceback.print_exc()
            answer = {"error": type(error).__name__, "message": str(error), "token": getattr(error, "token", None)}
        print("answer", json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(*map(int, sys.argv[1:]))
