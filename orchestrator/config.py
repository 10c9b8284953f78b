"""Settings. Every limit of the product is one of these: named, with its unit, default and reason; environment prefix ``OTA_``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Configuration of every role, from ``OTA_…`` environment variables."""

    model_config = SettingsConfigDict(env_prefix="OTA_", extra="ignore")

    # --- where the parts are
    database_url: str = Field("postgresql://ota@127.0.0.1:5432/ota", description="PostgreSQL 15 or later.")
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="host:port[,host:port] of the brokers.")
    temporal_address: str = Field("127.0.0.1:7233", description="host:port of the Temporal frontend.")
    temporal_namespace: str = "default"
    artifact_store: str = Field(
        "", description="obstore URL (file:///…, s3://…, gs://…, az://…); empty: state_dir/artifacts."
    )
    state_dir: Path = Field(Path(".ota"), description="Folder for what a single machine keeps: artifacts, logs.")
    topic_prefix: str = Field("", description="Put before every topic name, so that deployments can share a broker.")

    # --- listeners
    host: str = Field(
        "127.0.0.1", description="Address of every listener; loopback unless a proxy or TLS stands before it."
    )
    api_port: int = 8080
    gateway_port: int = 8081
    health_port: int = Field(
        0, description="Port of /healthz, /readyz and /metrics of projector, worker and relay; 0: none."
    )
    gateway_url: str = Field("", description="How devices reach the gateway; empty: http://host:gateway_port.")

    public_url: str = Field(
        "", description="How people and receivers of webhooks reach the operator API; empty: http://host:api_port."
    )

    # --- webhooks
    webhook_timeout_s: float = Field(
        10.0, gt=0, description="Seconds for one delivery; a receiver should answer first and work then."
    )
    webhook_refused_networks: str = Field(
        "169.254.0.0/16,fe80::/10,fd00:ec2::/32",
        description="Networks that no webhook is sent to: by default link-local ones, where clouds keep their credentials. Private"
        " ones are where receivers on premises are.",
    )

    # --- gateway
    tenant: str = Field("default", description="The one DDI tenant, compared case-insensitively.")
    poll_interval: int = Field(
        300, ge=1, lt=86_400, description="Seconds between polls that devices are told; varies by poll_jitter."
    )
    max_report_bytes: int = Field(
        262_144, description="Largest feedback or configData body: real clients send logs of kilobytes."
    )
    projection_wait_ms: int = Field(
        2_000,
        description="How long a report waits for its projection before the overlay answers for it; clients time out at 10 s.",
    )
    presence_flush_ms: int = Field(2_000, description="Last-seen times are written in batches this far apart.")

    # --- projector
    instance: str = Field(
        "projector-0", description="Static group member id: stable over restarts, unique per process."
    )
    projector_batch: int = Field(
        4_000,
        description="Most facts per transaction, met only while catching up: fewer merge less, more hold locks longer.",
    )
    projector_linger_ms: int = Field(
        5, description="Longest wait for a fuller batch: a fetch hands in its partitions one after the other."
    )
    projector_stuck_s: float = Field(
        300.0,
        gt=0,
        description="Seconds without a fetch after which a projector loses its partitions: its buffers are full and nothing moves.",
    )
    fetch_wait_ms: int = Field(25, description="Broker-side wait for fetch_min_bytes; more saves CPU at low rates.")

    # --- rebuild
    rebuild_batch: int = Field(
        20_000, gt=0, description="Facts per transaction: long runs of a partition hold a device's whole life."
    )
    rebuild_compare_rows: int = Field(
        10_000, gt=0, description="Rows compared at a time: what is fetched where they differ."
    )
    rebuild_switch_lag: int = Field(
        2_000, ge=0, description="Records of all logs left at which the switch is tried: about 50 ms of catching up."
    )
    rebuild_recheck: int = Field(
        20_000, gt=0, description="Most devices compared again while writers wait; after more, the switch is put off."
    )
    rebuild_lock_ms: int = Field(
        500, gt=0, lt=1_000, description="Longest wait for the switch's locks: PostgreSQL breaks deadlocks after 1 s."
    )
    rebuild_pause_ms: int = Field(
        10_000, gt=0, description="Longest that writers wait for the last records; devices time out at 10 s and more."
    )
    rebuild_switch_attempts: int = Field(
        120, gt=0, description="Tries for the switch's locks, about half a second apart: outlasts a vacuum."
    )
    rebuild_patience_s: int = Field(
        60, gt=0, description="Seconds without progress after which a rebuild gives up; it can be run again."
    )

    # --- worker
    slice_size: int = Field(500, description="Most devices per slice transaction.")
    dispatch_poll_ms: int = Field(250, description="Pause of the dispatcher when there is no room.")
    gate_poll_ms: int = Field(1_000, description="How often a phase's gate is looked at.")
    sweep_poll_ms: int = Field(1_000, description="How often a campaign's deadlines are looked at.")
    worker_heartbeat_ms: int = Field(
        10_000,
        ge=1_000,
        description="A worker that was killed is noticed after this long; a busy one must not be taken for dead.",
    )
    task_queue: str = "ota"

    # --- limits of requests
    max_artifact_bytes: int = Field(
        1 << 30, description="Largest artifact: hawkBit's default, far above any MCU image."
    )
    max_body_bytes: int = Field(1 << 20, description="Largest JSON body of the operator API, imports apart.")
    idempotency_lease_ms: int = Field(
        60_000,
        ge=1_000,
        description="After this long without an answer a repeated request is performed again: longer than a request takes.",
    )
    max_import_devices: int = Field(10_000, description="Devices per import request; clients page.")
    max_devices_per_event: int = Field(
        500, gt=0, description="Devices per registration event: small events, and short waits for the log's lock."
    )

    max_postponement_days: int = Field(
        90,
        gt=0,
        le=3_650,
        description="Days that an owner may postpone an update for: long enough for a season, not for ever.",
    )

    # --- limits of rates
    address_rate: float = Field(
        200.0, gt=0, description="Requests per second of one address: hawkBit's limit; a site behind one is one client."
    )
    address_burst: int = Field(
        2_000, ge=4, description="Requests of an address that was quiet: a site of hundreds of devices that comes back."
    )
    device_rate: float = Field(
        2.0, gt=0, description="Requests per second of one device, downloads apart: a client in a loop is held at this."
    )
    device_burst: int = Field(
        120,
        ge=4,
        description="Requests of a device that was quiet: an update with its polls and dozens of log reports.",
    )
    limit_keys: int = Field(
        100_000, gt=0, description="Devices, and addresses, whose use a gateway remembers, about 250 bytes each."
    )
    limit_exempt: str = Field(
        "127.0.0.1,::1", description="Addresses or networks without a limit, such as a proxy that speaks for everybody."
    )
    overload_lag_ms: int = Field(
        1_000,
        gt=0,
        description="Lag of a gateway's event loop from which only reports are let in, polls to a quarter: clients give up at 10 s.",
    )
    overload_requests: int = Field(
        4_000,
        ge=4,
        description="Requests in hand of a gateway and connections that wait, from which only reports are let in, polls to a quarter:"
        " 0.2 s of polls. Without those that wait, the bound for reports.",
    )
    max_downloads: int = Field(
        2_000,
        gt=0,
        description="Downloads under way at once per gateway: each holds a descriptor and a piece of the file.",
    )
    listen_backlog: int = Field(
        4_096,
        gt=0,
        description="Connections that may wait to be accepted: as many as Linux allows (net.core.somaxconn).",
    )
    shed_return_share: float = Field(
        0.75,
        gt=0,
        le=1,
        description="Share of what a gateway sees that it can serve at which it asks back whom it refused: some come unasked.",
    )
    retry_after_min: int = Field(
        5, ge=1, description="Seconds that a refused client waits at least; SWUpdate waits 10."
    )
    retry_after_max: int = Field(300, ge=1, description="Seconds that a refused client waits at most: a poll interval.")
    poll_jitter: float = Field(
        0.1,
        ge=0,
        le=0.9,
        description="Share of the poll interval by which it varies: clients have no jitter of their own.",
    )
    poll_jitter_loaded: float = Field(
        0.5, ge=0, le=0.9, description="The same during a storm: what came at once is spread over a whole interval."
    )
    api_key_rate: float = Field(
        50.0, gt=0, description="Requests per second of one API key: about half of what an api process can answer."
    )
    api_key_burst: int = Field(500, gt=0, description="Requests of an API key that was quiet: an import of millions.")

    # --- telemetry
    otlp_endpoint: str = Field("", description="OTLP/HTTP endpoint for traces and metrics; empty: /metrics only.")

    @property
    def api_address(self) -> str:
        """How receivers of webhooks reach the operator API."""
        return self.public_url or f"http://{self.host}:{self.api_port}"

    @property
    def device_events_topic(self) -> str:
        return f"{self.topic_prefix}ota.device-events.v1"

    @property
    def campaign_events_topic(self) -> str:
        return f"{self.topic_prefix}ota.campaign-events.v1"

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.topic_prefix}ota.dead-letter.v1"

    @property
    def public_gateway(self) -> str:
        return self.gateway_url or f"http://{self.host}:{self.gateway_port}"
