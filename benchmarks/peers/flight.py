# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Arrow Flight: one long exchange, in which each record batch comes back as it is. A floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers import caller


def serve(port: int, _models: Path) -> None:
    """Echoes the batches of each exchange."""
    from pyarrow import flight

    class Echo(flight.FlightServerBase):  # type: ignore[misc]
        def do_exchange(self, _context: Any, _descriptor: Any, reader: Any, writer: Any) -> None:
            writer.begin(reader.schema)
            for chunk in reader:
                writer.write_batch(chunk.data)

    Echo(f"grpc://127.0.0.1:{port}").serve()


class _Calls:
    """One exchange for each size, since its batches have one schema but any length."""

    def __init__(self, port: int) -> None:
        import pyarrow
        from pyarrow import flight

        self._arrow = pyarrow
        client = flight.connect(f"grpc://127.0.0.1:{port}")
        self._writer, self._reader = client.do_exchange(flight.FlightDescriptor.for_command(b"echo"))
        self._schema = pyarrow.schema([("x", pyarrow.float32())])
        self._writer.begin(self._schema)

    def tiny(self, x: Any) -> Any:
        return self._echo(x)

    def large(self, x: Any) -> Any:
        return self._echo(x)

    def _echo(self, x: Any) -> Any:
        array = self._arrow.array(x.reshape(-1))  # a view: NumPy's memory is what is sent
        self._writer.write_batch(self._arrow.record_batch([array], schema=self._schema))
        return self._reader.read_chunk().data.column(0).to_numpy()


if __name__ == "__main__":
    caller.run(serve, _Calls, has_models=False)
