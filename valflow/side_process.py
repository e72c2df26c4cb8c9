"""A process that calls functions for another one, and hands large arrays back without copying them through a pipe.

Run by path: ``python side_process.py FD SECONDS``, FD being one end of a pair of sockets. It ends when the other end
closes, be it by SIGKILL, and by itself when it was asked for nothing for so many seconds. Only the standard library
is imported before the other end has said where modules are found.
"""

from __future__ import annotations

import array
import mmap
import os
import pickle
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from typing import Any

# Number of arrays apart, and bytes of the rest; the sizes of the arrays follow.
_HEAD = struct.Struct("<QQ")
_APART = 1 << 16  # bytes from which an array goes apart from the rest
_ALIGNED = 64
_NOT_PICKLED = (pickle.PicklingError, TypeError, AttributeError)


def send(connection: socket.socket, value: Any) -> None:
    """Send a value; NumPy's arrays and torch's tensors in it go through memory that both ends share."""
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _APART:
            return True
        buffers.append(raw)
        return False

    body = BytesIO()
    _Pickler(body, protocol=5, buffer_callback=keep).dump(value)
    sizes = array.array("Q", [b.nbytes for b in buffers])
    head = _HEAD.pack(len(buffers), body.tell())
    if buffers:
        memory = _filled(buffers)
        try:
            socket.send_fds(connection, [head], [memory])
        finally:
            os.close(memory)
    else:
        connection.sendall(head)
    connection.sendall(sizes.tobytes() + body.getbuffer())


def receive(connection: socket.socket) -> Callable[[], Any]:
    """Wait for a value; it is made of its bytes when the answer is called.

    Raises:
        EOFError: the other end has closed.
        TimeoutError: nothing came in the time that the connection allows.
    """
    head, descriptors, _, _ = socket.recv_fds(connection, _HEAD.size, 1)
    if len(head) < _HEAD.size:
        head += _exactly(connection, _HEAD.size - len(head)) if head else _ended()
    number, length = _HEAD.unpack(head)
    sizes = array.array("Q", _exactly(connection, 8 * number))
    body = _exactly(connection, length)
    buffers = _mapped(descriptors[0], sizes) if number else []
    return lambda: pickle.loads(body, buffers=buffers)


def pack(value: Any) -> bytes:
    """A value to be sent several times, and made once by ``unpack``.

    Raises:
        TypeError: no other process can have it.
    """
    try:
        return pickle.dumps(value)
    except _NOT_PICKLED as error:
        raise TypeError(str(error)) from error


def unpack(packed: bytes) -> Any:
    """What ``pack`` was given by the other end."""
    return pickle.loads(packed)


class _Pickler(pickle.Pickler):
    """Gives torch's tensors the way of NumPy's arrays."""

    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None or type(value) is not torch.Tensor or value.requires_grad or value.is_sparse:
            return NotImplemented
        if (
            value.device.type != "cpu"
            or value.dtype in (torch.bfloat16, torch.complex32)
            or value.is_quantized
        ):
            return NotImplemented
        return torch.from_numpy, (value.contiguous().numpy(),)


def _filled(buffers: list[memoryview]) -> int:
    """A descriptor of memory with these one behind the other; it goes when nobody holds it any more."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("valflow")
    else:
        with tempfile.TemporaryFile() as file:
            memory = os.dup(file.fileno())
    place = 0
    for buffer in buffers:
        done = 0
        while done < buffer.nbytes:
            done += os.pwrite(memory, buffer[done:], place + done)
        place = _next_place(place + done)
    os.ftruncate(memory, place)
    return memory


def _mapped(memory: int, sizes: array.array[int]) -> list[memoryview]:
    total = sum(map(_next_place, sizes))
    try:
        whole = memoryview(mmap.mmap(memory, total))
    finally:
        os.close(memory)
    places, place = [], 0
    for size in sizes:
        places.append(whole[place : place + size])
        place = _next_place(place + size)
    return places


def _next_place(end: int) -> int:
    return -(-end // _ALIGNED) * _ALIGNED


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        done += connection.recv_into(view[done:]) or _ended()
    return data


def _ended() -> Any:
    raise EOFError("the process at the other end is gone")


def _answer(call: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether a call has returned, and what it has returned or raised."""
    try:
        function, arguments = call()
        return True, function(*arguments)
    except Exception as error:  # noqa: BLE001 - handed on to the one who asked
        return False, error


def _portable(error: Exception) -> Exception:
    """An error that the other end can make again; of one with a class or state that it cannot, the words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - errors raise what they like when they are copied
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def main(descriptor: int, idle_seconds: float) -> None:
    """Answer calls until nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks; we end with it
    os.nice(5)  # where cores are few the model comes first; while it waits for us they are ours
    with socket.socket(fileno=descriptor) as connection:
        connection.settimeout(idle_seconds)
        try:
            sys.path[:] = receive(connection)()
            while True:
                returned, value = _answer(receive(connection))
                if returned:
                    try:
                        send(connection, (True, value))
                        continue
                    except _NOT_PICKLED as error:
                        value = error
                send(connection, (False, _portable(value)))
        except (EOFError, TimeoutError, ConnectionError):
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
