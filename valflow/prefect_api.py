"""The few calls to Prefect's HTTP API that valflow needs, without importing Prefect (which takes 1.5 s)."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from valflow import homes
from valflow.config import LabelingConfig
from valflow.errors import ConfigError, StackError
from valflow.login import FOR_CLIENTS

if TYPE_CHECKING:
    import httpx

FLOW = "label-dataset"
DEPLOYMENT = "label-dataset"
NO_SERVER = "Start one with `valflow up`, or set PREFECT_API_URL to the one that you use"

# Prefect on SQLite answers 503 while another request writes, most of all right after a change of state.
BUSY = frozenset({429, 502, 503})
_logins: dict[str, str] = {}  # by address of the API
BACK_OFF = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.2)  # seconds; 9.5 in all


@dataclass(frozen=True)
class ResumeOutcome:
    """What Prefect said to a resume.

    ACCEPT: the run goes on. REJECT: the input does not fit the form. ABORT: the run does not wait (any more).
    """

    status: Literal["ACCEPT", "REJECT", "ABORT"]
    reason: str | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the run goes on."""
        return self.status == "ACCEPT"


@dataclass(frozen=True)
class FlowRunState:
    """Where a Prefect flow run stands; the truth about execution, not about labels."""

    kind: str  # SCHEDULED PENDING RUNNING PAUSED COMPLETED FAILED CRASHED CANCELLED CANCELLING
    name: str  # finer: Suspended, Late, Resuming, …
    message: str | None = None
    since: datetime | None = None
    is_deployed: bool = False  # so that a worker can start it again
    pool: str | None = None  # whose workers do

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a person."""
        return self.kind == "PAUSED"

    @property
    def is_final(self) -> bool:
        """Whether it has ended, well or not."""
        return self.kind in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def api_url(home: Path | None = None) -> str:
    """Address of the Prefect API: PREFECT_API_URL, else the stack that runs in ``home``.

    Args:
        home: None takes VALFLOW_HOME, else the current folder.

    Raises:
        StackError: there is neither.
    """
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        url = homes.environment(home or homes.home()).get("PREFECT_API_URL")
    if not url:
        raise StackError(f"expected a Prefect server, but none is known here. {NO_SERVER}.")
    return url.rstrip("/")


def ui_url(flow_run_id: str | None = None, api: str | None = None) -> str:
    """Address of a flow run's page (None: of the whole interface) for a person's browser.

    Raises:
        StackError: no server is known.
    """
    base = os.environ.get("PREFECT_UI_URL") or (api or api_url()).removesuffix("/api")
    return f"{base.rstrip('/')}/runs/flow-run/{flow_run_id}" if flow_run_id else base


def is_reachable(api: str | None = None, timeout: float = 2.0) -> bool:
    """Whether a Prefect server answers within ``timeout`` seconds; never raises."""
    import httpx

    try:
        answer = httpx.get(f"{api or api_url()}/health", timeout=timeout)
    except (StackError, httpx.HTTPError, httpx.InvalidURL):
        return False
    return answer.status_code == 200


def server_version(api: str | None = None) -> str:
    """Version of the Prefect server.

    Raises:
        StackError: it does not answer.
    """
    return str(call("GET", "/admin/version", api=api).json())


def trigger(
    config: LabelingConfig | Mapping[str, Any],
    *,
    name: str | None = None,
    api: str | None = None,
    idempotency_key: str | None = None,
) -> str:
    """Ask for a run of the deployment, now.

    Args:
        config: the run's configuration, its folders absolute.
        name: readable name of the flow run.
        api: address of the API; None finds it.
        idempotency_key: of requests with the same one only the first makes a flow run.

    Returns:
        The flow run's id.

    Raises:
        StackError: no server answers, or the deployment is not there.
        ConfigError: Prefect refuses the configuration.
    """
    values = config.model_dump(mode="json") if isinstance(config, LabelingConfig) else dict(config)
    body: dict[str, Any] = {
        "parameters": {"config": values},
        # Prefect makes one run per key, so that a repeated request after a 503 cannot start two.
        "idempotency_key": idempotency_key or str(uuid.uuid4()),
    }
    if name:
        body["name"] = name
    deployment = find_deployment(api=api)
    answer = call(
        "POST", f"/deployments/{deployment['id']}/create_flow_run", body, api=api, accept={409, 422}
    )
    if answer.status_code >= 400:
        raise ConfigError([f"the deployment does not take this configuration: {_detail(answer)}"])
    return str(answer.json()["id"])


def find_deployment(flow: str = FLOW, deployment: str = DEPLOYMENT, api: str | None = None) -> dict[str, Any]:
    """The deployment's record.

    Raises:
        StackError: no server answers, or the deployment is not there.
    """
    answer = call("GET", f"/deployments/name/{flow}/{deployment}", api=api, accept={404})
    if answer.status_code == 404:
        raise StackError(
            f"expected the deployment {flow}/{deployment} on {api or api_url()}, found none. "
            "`valflow up` makes it; on a server of your own: `prefect deploy --all`."
        )
    record: dict[str, Any] = answer.json()
    return record


def resume(flow_run_id: str, run_input: Mapping[str, Any], *, api: str | None = None) -> ResumeOutcome:
    """Continue a suspended run with the form's values.

    Works with no worker running: the run is then queued. Only the form's JSON schema is checked here.

    Raises:
        StackError: no server answers, or it does not know the run.
    """
    flow_run_state(flow_run_id, api=api)  # resuming a run that it does not know breaks Prefect: 500
    path = f"/flow_runs/{flow_run_id}/resume"
    answer = call("POST", path, {"run_input": dict(run_input)}, api=api, accept={409, 422})
    if answer.status_code >= 400:
        return ResumeOutcome("ABORT", _detail(answer))
    # Accepted is 201; refusals come as 200, with the reason inside.
    body = answer.json()
    return ResumeOutcome(body["status"], (body.get("details") or {}).get("reason"))


def flow_run_state(flow_run_id: str, *, api: str | None = None) -> FlowRunState:
    """The state of a flow run.

    Raises:
        StackError: no server answers, or it does not know the run.
    """
    state = find_flow_run(flow_run_id, api=api)
    if state is None:
        raise StackError(f"the Prefect server at {api or api_url()} knows no flow run {flow_run_id}")
    return state


def find_flow_run(flow_run_id: str, *, api: str | None = None) -> FlowRunState | None:
    """The state of a flow run, None where the server does not know it.

    Raises:
        StackError: no server answers.
    """
    answer = call("GET", f"/flow_runs/{flow_run_id}", api=api, accept={404})
    if answer.status_code == 404:
        return None
    return _state_of(answer.json())


def _state_of(run: Mapping[str, Any]) -> FlowRunState:
    state = run.get("state") or {"type": "PENDING", "name": "Pending"}
    since = datetime.fromisoformat(state["timestamp"]) if state.get("timestamp") else None
    return FlowRunState(
        kind=state["type"],
        name=state["name"],
        message=state.get("message"),
        since=since,
        is_deployed=run["deployment_id"] is not None,
        pool=run.get("work_pool_name"),
    )


def unfinished(*, api: str | None = None, limit: int = 50) -> list[tuple[str, str, int, FlowRunState]]:
    """Flow runs of our deployment that crashed, or say that they are at work: id, name, number of starts and state.

    Latest first. Raises:
        StackError: no server answers.
    """
    body = {
        "flows": {"name": {"any_": [FLOW]}},
        "flow_runs": {"state": {"type": {"any_": ["CRASHED", "RUNNING", "PENDING"]}}},
        "sort": "START_TIME_DESC",
        "limit": limit,
    }
    return [
        (str(run["id"]), str(run["name"]), int(run["run_count"]), _state_of(run))
        for run in call("POST", "/flow_runs/filter", body, api=api).json()
    ]


def retry(flow_run_id: str, *, api: str | None = None) -> None:
    """Let a worker start a flow run of a deployment again, whatever state it is in; it walks from the top.

    Raises:
        StackError: no server answers, or it does not take it.
    """
    state = {
        "type": "SCHEDULED",
        "name": "AwaitingRetry",
        "message": "Its process died; started again by valflow",
        "state_details": {"scheduled_time": datetime.now(UTC).isoformat()},
    }
    answer = call(
        "POST", f"/flow_runs/{flow_run_id}/set_state", {"state": state, "force": True}, api=api
    ).json()
    if answer["status"] != "ACCEPT":
        reason = (answer.get("details") or {}).get("reason")
        raise StackError(f"Prefect does not start flow run {flow_run_id} again: {answer['status']}, {reason}")


def wait_for(
    flow_run_id: str,
    names: Collection[str] = (),
    *,
    timeout: float,
    poll: float = 0.5,
    api: str | None = None,
) -> FlowRunState:
    """Wait until a flow run has ended, waits for a person, or is in one of the states ``names``.

    Args:
        flow_run_id: the run.
        names: names of states, such as Suspended; empty: any final or waiting state.
        timeout: seconds.
        poll: seconds between two questions.
        api: address of the API; None finds it.

    Raises:
        StackError: it ended in another state than ``names``, or did not get there in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        state = flow_run_state(flow_run_id, api=api)
        if state.name in names or (not names and (state.is_final or state.is_waiting)):
            return state
        wanted = " or ".join(names) or "its end"
        if state.is_final:
            raise StackError(
                f"expected flow run {flow_run_id} to reach {wanted}, found {state.name}: {state.message}"
            )
        if time.monotonic() > deadline:
            raise StackError(
                f"flow run {flow_run_id} did not reach {wanted} within {timeout:.0f} s; it is {state.name}. "
                "Is a worker running? See `valflow doctor`."
            )
        time.sleep(poll)


def call(
    method: str,
    path: str,
    body: Any = None,
    *,
    api: str | None = None,
    accept: Collection[int] = (),
) -> httpx.Response:
    """One request to the API, repeated with growing pauses while the server says that it is busy.

    Args:
        method: GET, POST, PATCH or DELETE.
        path: behind the API's address, with a leading slash.
        body: sent as JSON.
        api: address of the API; None finds it.
        accept: status codes of 400 and above that the caller handles itself.

    Raises:
        StackError: no server answers, it stays busy, or it refuses.
    """
    import httpx

    api = api or api_url()
    try:
        with httpx.Client(timeout=15.0, **_credentials(api)) as client:
            answer = client.request(method, api + path, json=body)
            for pause in BACK_OFF:
                if answer.status_code not in BUSY:
                    break
                time.sleep(pause)
                answer = client.request(method, api + path, json=body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StackError(f"no Prefect server answers at {api} ({error}). {NO_SERVER}.") from error
    if answer.status_code == 401:
        raise StackError(
            f"the Prefect server at {api} asks for a login: work in the folder (or VALFLOW_HOME) of its "
            f"`valflow up --secure`, or set {FOR_CLIENTS}=user:password"
        )
    if answer.status_code in BUSY:
        raise StackError(
            f"the Prefect server at {api} answers {answer.status_code} ({_detail(answer)}) to {method} {path}, and "
            f"went on so for {sum(BACK_OFF):.0f} s. Nothing is lost: give the same command again once it works "
            "(`valflow doctor` tells)"
        )
    if answer.status_code >= 400 and answer.status_code not in accept:
        raise StackError(f"Prefect at {api} refused {method} {path}: {answer.status_code}, {_detail(answer)}")
    return answer


def use_login(api: str, login: str | None) -> None:
    """Let calls of this process to one API bring this login, ``user:secret``."""
    _logins.pop(api, None)
    if login:
        _logins[api] = login


def _credentials(api: str) -> dict[str, Any]:
    # The two ways that Prefect itself knows: basic authentication of an own server, the key of a hosted one.
    login = _logins.get(api) or os.environ.get(FOR_CLIENTS) or _login_of_home(api)
    user, colon, password = (login or "").partition(":")
    if colon:
        return {"auth": (user, password)}
    key = os.environ.get("PREFECT_API_KEY")
    return {"headers": {"Authorization": f"Bearer {key}"}} if key else {}


def _login_of_home(api: str) -> str | None:
    home = homes.home()
    is_ours = homes.read_record(home).addresses.get("PREFECT_API_URL") == api
    return homes.login_for(home) if is_ours else None


def _detail(answer: httpx.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        return answer.text[:500]
    return str(body.get("detail", body) if isinstance(body, dict) else body)[:1000]
