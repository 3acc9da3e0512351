"""The agent's command line, as the keeper and the agent itself use it.

python3 agent-DIGEST.pyz session job.json             measure everything that the job names, or a board
python3 agent-DIGEST.pyz pass job.json NUMBER NAME    one pass over one configuration, in this process
"""

from __future__ import annotations

import json
import os

from .attached import run_attached
from .measuring import run_pass
from .protocol import AgentError, first_line, open_protocol
from .session import run_session


def main(words: list[str]) -> int:
    """Measure, with every message on stdout and everything that libraries print on stderr; returns the exit code."""
    say = open_protocol()
    task, job_path = words[1:3]
    folder = os.path.dirname(os.path.abspath(job_path))
    try:
        with open(job_path, encoding="utf-8") as stream:
            job = json.load(stream)
        if task == "session":
            if "serial" in job:
                run_attached(job, folder, say)
            else:
                run_session(job, folder, os.path.abspath(words[0]), say)
            return 0
        configuration = job["configurations"][int(words[3])]
        if configuration["cores"]:
            os.sched_setaffinity(0, configuration["cores"])
        run_pass(job, configuration, words[4], folder, say)
    except AgentError as error:
        say("error", code=error.code, message=error.message, hint=error.hint)
        return 1
    except MemoryError:
        say("error", code="memory", message="The device has not enough memory for this model.", hint=None)
        return 1
    except OSError as error:  # A disk that is full by now.
        say("error", code="device", message=f"{error.strerror or first_line(error)}.", hint=None)
        return 1
    return 0
