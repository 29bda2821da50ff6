"""What the three metadata services have in common: plain HTTP on one address, and the knobs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from tests.clouds.knobs import Call, Do, Knobs, refusal
from tests.clouds.serving import lose


@dataclass
class Service:
    """One machine's metadata service; a knob's action is `token` or `read`."""

    knobs: Knobs = field(default_factory=Knobs)
    faults: list[str] = field(default_factory=list)

    def action(self, request: web.Request) -> str:
        return "token" if "token" in request.path else "read"

    async def told(self, request: web.Request, *, expired: bool) -> web.Response:
        raise NotImplementedError

    async def answer(self, request: web.Request) -> web.StreamResponse:
        call = Call((self.action(request),), request.path, request.method == "POST")
        met = self.knobs.meet(call)
        if Do.DELAY in met:
            await asyncio.sleep(met[Do.DELAY].seconds)
        refused = refusal(met)
        if refused is not None:
            answer = web.Response(status=refused.status)
        else:
            answer = await self.told(request, expired=Do.EXPIRED in met)
        if Do.LOST in met:
            self.knobs.note_done(call, 0)
            await lose(request, met[Do.LOST])
            return answer
        self.knobs.note_done(call, answer.status)
        return answer
