"""The settings of the inspection server; ``vqc serve`` makes them of its flags and of a file."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import Field, SecretStr, StrictBool, StrictFloat, StrictInt, model_validator

from vqc.config import Record
from vqc.data.image_io import MOST_PIXELS

LOOPBACK_NAMES = ("127.0.0.1", "::1", "localhost")
SHORTEST_TOKEN = 16
MB, GB = 10**6, 10**9


class ServingSettings(Record):
    """What the server serves, to whom, and how much of the machine it may take."""

    bundle: Path | None = Field(None, description="folder of the promoted detector; none: as ModelSlot.open says")
    promoted: Path = Field(Path("results/promoted"), description="folder whose bundles may be asked for by name")
    store: Path = Field(Path("results/serving"), description="folder of the history, the photographs and the state")
    host: str = Field("127.0.0.1", description="address to listen at")
    port: StrictInt = Field(8000, ge=0, le=65535, description="0: any that is free")
    token: SecretStr | None = Field(None, description="who knows it may call; needed at any address but the loopback")
    allowed_hosts: tuple[str, ...] = Field((), description="names under which the server is reached, without port")
    threads: StrictInt | None = Field(None, ge=1, description="of the detector; none: one less than there are cores")
    queue_length: StrictInt = Field(8, ge=1, le=1000, description="photographs that may wait for the detector")
    max_body_mb: StrictInt = Field(32, ge=1, le=1000, description="of a photograph's file")
    max_megapixels: StrictFloat = Field(50.0, gt=0, le=MOST_PIXELS / 1e6, description="of a photograph")
    body_timeout_s: StrictFloat = Field(30.0, gt=0, description="in which a request's body has to arrive")
    keep_inspections: StrictInt = Field(100_000, ge=1, description="beyond that the oldest are removed")
    keep_gb: StrictFloat = Field(20.0, gt=0, description="of photographs; beyond that the oldest are removed")
    review_odds: StrictFloat = Field(
        2.0,
        ge=1,
        description="a score whose odds are within this factor of the threshold's is unsure: a review is requested",
    )
    review_share: StrictFloat = Field(0.02, ge=0, le=1, description="of the other inspections, by chance")
    review_seed: StrictInt = Field(0, ge=0, description="of that chance")
    watch: Path | None = Field(None, description="folder whose photographs are inspected as they appear")
    challenger: Path | None = Field(
        None, description="folder of a detector that looks along in idle moments; none: the one that export_best names"
    )
    webhook_url: str | None = Field(None, description="address that is told of defective parts and of drift")
    webhook_secret: SecretStr | None = Field(
        None, description="whsec_ and 24 to 64 bytes in base64: signs what is sent"
    )
    explanation_masks: StrictInt = Field(400, ge=16, le=4000, description="of a heat map")
    verify_golden: StrictBool = Field(True, description="whether a bundle must find on its golden images what it found")

    @property
    def on_loopback(self) -> bool:
        """Whether no other machine can reach the server."""
        return self.host in LOOPBACK_NAMES or _is_loopback(self.host)

    @property
    def max_body_bytes(self) -> int:
        """Of a photograph's file."""
        return self.max_body_mb * MB

    @model_validator(mode="after")
    def _guarded(self) -> ServingSettings:
        problems = []
        if self.token is None and not self.on_loopback:
            problems.append(f"token: none given, expected one because other machines reach {self.host}")
        if self.token is not None and len(self.token.get_secret_value()) < SHORTEST_TOKEN:
            problems.append(f"token: expected at least {SHORTEST_TOKEN} characters")
        if (self.webhook_url is None) != (self.webhook_secret is None):
            problems.append("webhook_url, webhook_secret: expected both or neither")
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
