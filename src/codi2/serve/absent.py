"""Routes of OpenAI's API that this server does not have, and what to use in their place."""

from __future__ import annotations

import re

_SPEECH = "there is no speech here: the model has no voice and makes general sounds; POST to /v1/audio/generations"
_RECOGNITION = (
    "there is no speech recognition here; send the sound as input_audio to /v1/chat/completions and ask about it"
)
_STORED = "nothing is kept at this path; the server keeps conversations under /v1/sessions"
_NONE = "this server makes replies, and has no route of this kind; /openapi.json lists what there is"
_BASE = "the paths of this server begin with /v1; add that to the base URL"
ABSENT = {
    r"/v1/audio/speech": _SPEECH,
    r"/v1/audio/(transcriptions|translations)": _RECOGNITION,
    r"/v1/realtime.*": "there is no realtime connection here; POST to /v1/chat/completions with stream: true",
    r"/v1/images/variations": "there are no variations here; POST the picture and words to /v1/images/edits",
    r"/v1/completions": "there are no bare completions here; POST messages to /v1/chat/completions",
    r"/v1/(responses|conversations)(/.*)?": _STORED,
    r"/v1/chat/completions/.*": _STORED,
    r"/v1/(files|uploads|batches|threads|assistants|vector_stores|videos|containers)(/.*)?": _NONE,
    r"/v1/(embeddings|moderations|fine_tuning|evals|organization)(/.*)?": _NONE,
    r"/(chat/completions|responses|images/.*|models)": _BASE,
}


def instead(path: str) -> str | None:
    """The message for a path that this server does not have; None: OpenAI's API does not have it either."""
    return next((message for pattern, message in ABSENT.items() if re.fullmatch(pattern, path)), None)
