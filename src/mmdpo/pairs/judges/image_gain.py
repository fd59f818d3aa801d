"""log π(answer | image) − log π(answer | no image): no judge of answers, unless labelled answers show that it is one.

In the embedded world it ranks below chance: it pays for length and style. `mmdpo pairs judge` takes it only after
`mmdpo pairs check-judge` has found it better than chance on answers with labels. Needs `run`, a model or a run folder.
"""

from __future__ import annotations

from mmdpo.pairs.judges.reward import judge  # noqa: F401 - what differs is what the rewards are

NEEDS, STRIKES, WORDS = "", False, dict[str, str]()
NEEDS_RUN = NEEDS_PROOF = True
