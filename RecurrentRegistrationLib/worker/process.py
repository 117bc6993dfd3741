"""The process behind the 3D Slicer module: one JSON object a line on standard input and output.

Start it with `recurrent-registration worker` or `python -m RecurrentRegistrationLib.worker`. It keeps the last
registration in memory, so that it can be continued, refined and written again, and ends when standard input closes.
Only JSON goes to standard output; what libraries print, and tracebacks, go to standard error.

**Requests** `{"id": anything, "command": name, fields …}` are served one after the other. Each ends with exactly one of
the events `done`, `cancelled` and `error`, which carries the request's `id`. Optional fields stand in brackets.

- `hello` → `protocol`, `versions`, `platform`, `process` (its number), `threads`, `devices`: each with a `name` as the
  option `device` takes it, a `title`, `free` and `total` memory in bytes.
- `methods` → `methods`: their cards; `presets`: name and meaning.
- `memory` with `fixed`, `moving`, [`fixed_mask`, `moving_mask`, `options`] → `bytes` the registration takes at most,
  `notes` about what was chosen, `steps` planned. It checks the inputs as `register` does.
- `register` with `fixed`, `moving`: files, [`fixed_mask`, `moving_mask`, `options`: fields of `pipeline.Options`,
  `guide`, `display`] → `steps` made.
- `continue` with `count`, [`display`] → `steps`; the method goes on from the last step.
- `refine` with `count`, [`display`] → `steps`; optimises what the last step left.
- `guide` with [`guide`] → `agreement` of the last step with it: lists of `landmarks` (`name`, `before_mm`,
  `stages_mm`, `after_mm`) and `labels` (`name`, `before_dice`, `stages_dice`, `after_dice`). From the next step on,
  `continue`, `refine` and `correct` follow it; without a `guide` nothing guides any more. Where it is wrong there is an
  `error`, and the one before stays. While a registration is under way, `cancel` it first and `continue` afterwards.
- `correct` with [`display`] → `steps`: does at once what the guide asks for, around where it asks, in one step that is
  always kept; what is far away stays bit by bit what it was. No step where nothing has to be done.
- `map` with `points`, `[[x, y, z], …]` on the fixed image → `points` where the last step takes them, LPS millimetres.
- `accept` with `step` → `steps`; a kept step becomes the last one, later steps are forgotten.
- `result` with `folder`, [`step`, `save_steps`, `interpolation`, `background`, `inverse`] → `files`, `report`: what the
  command `register` writes, as of a kept step (default: the last one), and where asked for `inverse.h5`, the transform
  from moving to fixed points. Valid after every step, also after `cancel`.
- `uncertainty` with `folder`, [`kinds`: of "steps", "samples" and "inverse"] → `files`: `uncertainty_KIND.nrrd`, how
  sure the last step is of itself, in millimetres on the fixed grid; "samples" and "inverse" register again.
- `forget` → nothing; frees the memory of the registration.
- `cancel` → at once, past the queue; see below.
- `shutdown` → the process ends.

`guide` is an object; each of its fields may be absent: `landmarks`, a list of `{"fixed": [x, y, z], "moving":
[x, y, z], "name": …, "error": mm}` (LPS, millimetres; name and error may be absent), or the files `fixed_points` and
`moving_points` with `landmark_error`; the files `fixed_labels` and `moving_labels` (label maps, paired by value, or
segmentations of 3D Slicer, by the names of their segments) with `labels`, the names to use; `rigid`, a mask or label
map on the fixed image whose connected parts move as rigid bodies, or `rigid_labels`, names of the fixed labels that do;
`still`, a mask on the fixed image where nothing deforms.

`display` is `{"folder": …, "longest": 96, "type": "float16"}` (or "float32") and asks for the displacement of the kept
steps in NumPy files.

**Events** before the end of a request, with its `id`:

- `phase` with `name`: "read", "prepare", "align", "search", "deform", "refine", "correct", "conclude", "write".
- `note` with `text`: a sentence for the user. `log` with `text`: one for the log.
- `measure` with `name` ("correlation" or "information"), `before` (similarity of the images as their headers place
  them) and `similarity` (of the steps so far by index): how steps are measured from here on. It comes before the first
  step, and again where the contrasts turn out to differ.
- `step` with `index`, `phase`, `stage`, `planned`, `similarity` (the same measure over the whole run, higher is
  better), `best` (index of the most similar step so far), `mean_update_mm`, `folding` (%), `seconds`, `kept`,
  `display`; with a guide `landmark_error_mm` (mean), `landmark_worst_mm`, `landmarks_mm` (by name), `label_overlap`
  (mean Dice) and `labels_dice` (by name); and `beyond_training` where a network gets worse past the steps it was
  trained for. A step that is kept can be accepted and written later: about 40 of a run, the last of each stage among
  them. `display` is null or has a `path` and its grid's `size`, `spacing`, `origin`, `direction`
  (LPS, millimetres, index order i, j, k): the `.npy` file holds `[k, j, i, 3]`, the whole displacement from fixed to
  moving points there, LPS millimetres. It is complete when the event comes, and belongs to the receiver.
- `error` with `kind` ("input", "memory" or "internal") and `text`, one sentence. The process lives on.

Numbers that are unknown are null.

**Cancel** drops the requests that wait and interrupts the one that is served, wherever Python code runs; finished steps
stay. Where a single call of a library takes longer, `cancelled` comes within a second all the same, with `busy` true,
and the event `idle` follows when the call has returned and the process serves again; whoever does not want to wait may
end the process. When standard input closes in the middle of such a call, or while
nobody reads the answers, the process ends itself after two seconds. Nothing in it waits for the reader of its answers.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import queue
import sys
import threading
import time
import traceback
import warnings
from typing import IO, Any

from RecurrentRegistrationLib.errors import InputError, is_out_of_memory
from RecurrentRegistrationLib.worker.answers import Answers
from RecurrentRegistrationLib.worker.interruption import Interruption
from RecurrentRegistrationLib.worker.session import COMMANDS, Session

Request = dict[str, Any]

PATIENCE = 0.7  # seconds after which a cancel is confirmed although a library's call has not returned
FAREWELL = 2.0  # seconds a closed process may take to unwind


def serve() -> None:
    """Serve standard input until it closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    sys.stdout = sys.stderr
    with open(0, encoding="utf-8", closefd=False) as requests:
        Worker(requests, answers).run()
        os._exit(0)  # PyTorch takes seconds to unload, and nothing is left to be done


class Worker:
    """A thread reads requests; the main thread serves them, and may be interrupted while it does.

    Args:
        requests: lines of JSON.
        answers: where lines of JSON go; flushed after each.
    """

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self._requests, self._answers = requests, Answers(answers)
        self._send = self._answers.send
        self._queue: queue.Queue[Request | None] = queue.Queue()
        self._interruption = Interruption()
        self._session = Session(self._tell, self._interruption.held)
        self._lock = threading.RLock()  # of who ends the request that is served
        self._serving: Request | None = None
        self._ended = True

    def run(self) -> None:
        """Serve until `shutdown` or the end of the requests; must be called in the main thread."""
        self._interruption.listen()
        warnings.showwarning = self._warn
        threading.Thread(target=self._read, daemon=True).start()
        while (request := self._queue.get()) is not None:
            self._serve(request)
        self._answers.close()

    # The reading thread ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        for line in self._requests:
            try:
                request = json.loads(line)
                command = request["command"]
            except (ValueError, TypeError, KeyError):
                self._send(None, "error", kind="input", text="A request is one line of JSON with a command.")
                continue
            if command == "cancel":
                self._cancel()
                self._send(request.get("id"), "done")
            elif command == "shutdown":
                break
            else:
                self._queue.put(request)
        last_resort = threading.Timer(FAREWELL, os._exit, [0])  # a call does not return, or nobody reads the answers
        last_resort.daemon = True
        last_resort.start()
        self._cancel()
        self._queue.put(None)

    def _cancel(self) -> None:
        with contextlib.suppress(queue.Empty):
            while (waiting := self._queue.get_nowait()) is not None:
                self._send(waiting.get("id"), "cancelled", busy=False)
        with self._lock:
            served = self._serving
            if served is None:
                return
            self._interruption.ask()
        threading.Thread(target=self._insist, args=[served], daemon=True).start()

    def _insist(self, request: Request) -> None:
        """Interrupt the main thread until it has left a request; tell its end when patience ends."""
        began = time.monotonic()

        def wanted() -> bool:
            with self._lock:
                served = self._serving is request
                if served and not self._ended and time.monotonic() - began > PATIENCE:
                    self._ended = True
                    self._send(request.get("id"), "cancelled", busy=True)
            return served

        self._interruption.insist(wanted)

    # The main thread -------------------------------------------------------------------------------------------------

    def _serve(self, request: Request) -> None:
        with self._lock:
            self._serving, self._ended = request, False
            self._interruption.forget()
        try:
            with self._interruption.allowed():
                fields = self._call(request)
            self._end("done", **fields)
        except KeyboardInterrupt:
            self._end("cancelled", busy=False)
        except InputError as error:
            self._end("error", kind="input", text=str(error))
        except Exception as error:
            traceback.print_exc()
            if is_out_of_memory(error):
                self._end("error", kind="memory", text="There is not enough memory for this registration.")
            else:
                text = f"{type(error).__name__}: {' '.join(str(error).split())}"
                self._end("error", kind="internal", text=text)

    def _call(self, request: Request) -> dict[str, Any]:
        fields = {name: value for name, value in request.items() if name not in ("id", "command")}
        function = COMMANDS.get(request["command"])
        if function is None:
            raise InputError(f"There is no command '{request['command']}'; there are {', '.join(COMMANDS)}.")
        try:
            inspect.signature(function).bind(self._session, **fields)
        except TypeError as error:
            raise InputError(f"The request '{request['command']}' is not understood: {error}.") from error
        return function(self._session, **fields)

    def _tell(self, event: str, **fields: Any) -> bool:
        """Send an event of the request that is served, unless its end has been told; whether it was sent."""
        with self._interruption.held(), self._lock:
            if waited_for := self._serving is not None and not self._ended:
                self._send(self._serving.get("id"), event, **fields)
        return waited_for

    def _warn(self, message: Warning | str, *_: Any, **__: Any) -> None:
        self._tell("log", text=" ".join(str(message).split()))

    def _end(self, event: str, **fields: Any) -> None:
        """Tell the end of the request that is served, or `idle` where its end has been told."""
        with self._lock:
            assert self._serving is not None
            if self._ended:
                self._send(self._serving.get("id"), "idle")
            else:
                self._send(self._serving.get("id"), event, **fields)
            self._serving, self._ended = None, True
