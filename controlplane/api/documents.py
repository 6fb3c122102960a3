"""Between the document of a service and the core's `ServiceSpec`, both ways, with everything that is wrong listed."""

import functools
from collections.abc import Callable, Mapping

from controlplane.api.objectives import slo_from, slo_of
from controlplane.api.problems import InvalidDocumentError, Problems
from controlplane.api.schemas import (
    GateDocument,
    HeaderDocument,
    HealthCheckDocument,
    ListenerDocument,
    ListenerTlsDocument,
    MatchDocument,
    MirrorDocument,
    ModelDocument,
    PlanDocument,
    RouteDocument,
    ServiceDocument,
    StepDocument,
    VersionDocument,
)
from controlplane.errors import InvalidInputError
from controlplane.rollout.gate import Before, Gate, OnTimeout
from controlplane.rollout.model import FULL_WEIGHT_BP, Plan, Step
from controlplane.traffic.model import (
    NAME,
    Endpoint,
    HeaderMatch,
    HeaderRule,
    HealthCheck,
    Listener,
    Mirror,
    ModelPin,
    Route,
    RouteMatch,
    ServiceSpec,
    Share,
    Split,
    Version,
    check_certificate,
    check_name,
    check_split,
)

# -- document -> core --------------------------------------------------------------------------------------------------


def spec_from(document: ServiceDocument) -> ServiceSpec:
    """Build the core's value, with the documented defaults filled in.

    Raises:
        InvalidDocumentError: Values are out of range, or names lead nowhere.
    """
    problems = Problems()
    name = document.service
    problems.attempt(lambda: check_name("service", name))
    if not NAME.fullmatch(name):
        name = "service"  # what is derived from a bad name is not wrong a second time
    listener = problems.attempt(
        lambda: Listener(
            document.listener.name or f"{name}_listener",
            document.listener.address,
            document.listener.port,
            document.listener.stat_prefix,
            _certificate(document.listener.tls),
        )
    )
    versions = [_version(problems, name, place, version) for place, version in enumerate(document.versions, start=1)]
    routes = [_route(problems, document, place, route) for place, route in enumerate(document.routes, start=1)]
    slos = [
        problems.attempt(functools.partial(slo_from, objective, grpc=bool(document.grpc_target)))
        for objective in document.slos
    ]
    split = _split(problems, document)
    mirror = problems.attempt(lambda: _mirror(document))
    plan = problems.attempt(lambda: plan_from(document.plan))
    problems.raise_any()
    if listener is None or plan is None or split is None:
        raise AssertionError("a part is missing although nothing was wrong with it")
    try:
        return ServiceSpec(
            name=name,
            listener=listener,
            virtual_host=document.virtual_host or f"{name}_service",
            route_config=document.route_config or f"{name}_route",
            domains=tuple(document.domains),
            grpc_target=document.grpc_target,
            versions=tuple(version for version in versions if version),
            routes=tuple(route for route in routes if route),
            initial_split=split,
            mirror=mirror,
            draw_header=document.draw_header.lower(),
            slos=tuple(slo for slo in slos if slo),
            plan=plan,
            groups=tuple(document.groups),
            config_canary=document.config_canary,
        )
    except InvalidInputError as exc:
        raise InvalidDocumentError([exc]) from exc


def plan_from(document: PlanDocument) -> Plan:
    """Build a plan.

    Raises:
        InvalidInputError: A value is out of range.
    """
    steps = tuple(_step(number, step) for number, step in enumerate(document.steps, start=1))
    return Plan(steps, document.deadline, document.prepare_timeout)


def _step(number: int, step: StepDocument) -> Step:
    if isinstance(step.gate, bool):
        return Step(step.weight, step.hold, step.pause or step.gate, step.quality)
    given = step.gate
    try:
        gate = Gate(given.webhook, Before(given.before), given.timeout, given.interval, OnTimeout(given.on_timeout))
    except InvalidInputError as exc:
        raise InvalidInputError(f"plan.steps[{number}].{exc.field}", exc.problem, exc.fix) from exc
    return Step(step.weight, step.hold, step.pause, step.quality, gate)


def _gate_of(gate: Gate | None) -> bool | GateDocument:
    if gate is None:
        return False
    return GateDocument(
        webhook=gate.url,
        before=gate.before.value,
        timeout=gate.timeout,
        interval=gate.interval,
        on_timeout=gate.on_timeout.value,
    )


def split_from(weights: Mapping[str, int], *, field: str = "split") -> Split:
    """Build a split from basis points by version.

    Raises:
        InvalidInputError: They do not sum to 100 %.
    """
    split = tuple(Share(version, weight_bp) for version, weight_bp in weights.items())
    try:
        check_split(split)
    except InvalidInputError as exc:
        raise InvalidInputError(field, exc.problem, exc.fix) from exc
    return split


def endpoint_from(text: str) -> Endpoint:
    """Build an endpoint from ``host:port``, as `schemas` has checked and written it."""
    host, _, port = text.rpartition(":")
    return Endpoint(host.removeprefix("[").removesuffix("]"), int(port))


def _version(problems: Problems, service: str, place: int, document: VersionDocument) -> Version | None:
    path = f"versions.{document.name}" if document.name else f"versions[{place}]"
    endpoints = [
        problems.attempt(functools.partial(endpoint_from, text), _called(f"{path}.endpoints[{number}]"))
        for number, text in enumerate(document.endpoints, start=1)
    ]
    given = document.health_check
    check = problems.attempt(
        lambda: HealthCheck(
            given.path, given.interval, given.timeout, given.healthy_threshold, given.unhealthy_threshold
        ),
        lambda field: f"{path}.{field}",
    )
    model = problems.attempt(functools.partial(_model, document.model), lambda field: f"{path}.{field}")
    return problems.attempt(
        lambda: Version(
            document.name,
            document.cluster or f"{service}-{document.name}",
            tuple(endpoint for endpoint in endpoints if endpoint),
            HealthCheck() if check is None else check,
            document.connect_timeout,
            model,
        ),
        lambda field: f"versions[{place}].name" if field == "version.name" else field,
    )


def _model(document: ModelDocument | None) -> ModelPin | None:
    return ModelPin(document.name, document.checksum, document.code_version) if document else None


def _route(problems: Problems, document: ServiceDocument, place: int, route: RouteDocument) -> Route | None:
    path = f"routes.{route.name}" if route.name else f"routes[{place}]"
    headers = [
        problems.attempt(functools.partial(_header, header), lambda field: f"{path}.{field}")
        for header in route.match.headers
    ]
    match = problems.attempt(
        lambda: RouteMatch(route.match.prefix, tuple(header for header in headers if header)),
        lambda field: f"{path}.{field}",
    )
    if route.version is None and not route.split:
        problems.add(path, "goes nowhere", "give it version: NAME or split: true")
    if route.version is not None and route.split:
        problems.add(path, "goes to a version and to the split", "give it one of them")
    names = [version.name for version in document.versions]
    if route.version is not None and route.version not in names:
        problems.add(f"{path}.version", f"{route.version!r} is not a version", f"use one of {', '.join(names)}")
    return problems.attempt(
        lambda: Route(route.name, RouteMatch() if match is None else match, route.version, route.timeout),
        lambda field: f"routes[{place}].name" if field == "route.name" else field,
    )


def _certificate(document: ListenerTlsDocument | None) -> str:
    if document is None:
        return ""
    check_certificate("listener.tls.certificate", document.certificate)  # empty would be plaintext
    return document.certificate


def _called(name: str) -> Callable[[str], str]:
    return lambda _: name


def _header(document: HeaderDocument) -> HeaderMatch:
    given = [
        (rule, value)
        for rule, value in (
            (HeaderRule.EXACT, document.exact),
            (HeaderRule.REGEX, document.regex),
            (HeaderRule.PRESENT, "" if document.present else None),
        )
        if value is not None
    ]
    if len(given) != 1 or (given[0][0] is not HeaderRule.PRESENT and not given[0][1]):
        raise InvalidInputError(
            f"match.headers.{document.name}",
            "needs exactly one condition",
            "give one of exact: VALUE, regex: PATTERN and present: true",
        )
    return HeaderMatch(document.name, *given[0])


def _split(problems: Problems, document: ServiceDocument) -> Split | None:
    names = [version.name for version in document.versions]
    if document.split is None:
        return (Share(names[0], FULL_WEIGHT_BP),) if names else ()
    for name in document.split:
        if name not in names:
            problems.add(f"split.{name}", "is not a version", f"use one of {', '.join(names) or 'your versions'}")
    weights = document.split
    return problems.attempt(lambda: split_from(weights))


def _mirror(document: ServiceDocument) -> Mirror | None:
    if document.mirror is None:
        return None
    names = [version.name for version in document.versions]
    if document.mirror.to not in names:
        raise InvalidInputError(
            "mirror.to", f"{document.mirror.to!r} is not a version", f"use one of {', '.join(names)}"
        )
    return Mirror(document.mirror.to, document.mirror.share)


# -- core -> document --------------------------------------------------------------------------------------------------


def document_of(spec: ServiceSpec) -> ServiceDocument:
    """Write a service out whole, defaults included; reading it back gives the same service."""
    return ServiceDocument.model_construct(
        service=spec.name,
        listener=ListenerDocument(
            name=spec.listener.name,
            address=spec.listener.address,
            port=spec.listener.port,
            stat_prefix=spec.listener.stat_prefix,
            tls=ListenerTlsDocument(certificate=spec.listener.certificate) if spec.listener.certificate else None,
        ),
        virtual_host=spec.virtual_host,
        route_config=spec.route_config,
        domains=list(spec.domains),
        grpc_target=spec.grpc_target,
        versions=[_version_of(version) for version in spec.versions],
        routes=[_route_of(route) for route in spec.routes],
        split={share.version: share.weight_bp for share in spec.initial_split},
        mirror=_mirror_of(spec),
        draw_header=spec.draw_header,
        slos=[slo_of(slo) for slo in spec.slos],
        plan=plan_of(spec.plan),
        groups=list(spec.groups),
        config_canary=spec.config_canary,
    )


def _mirror_of(spec: ServiceSpec) -> MirrorDocument | None:
    if spec.mirror is None:
        return None
    return MirrorDocument.model_construct(to=spec.mirror.to, share=spec.mirror.share_bp)


def plan_of(plan: Plan) -> PlanDocument:
    """Write a plan out."""
    return PlanDocument(
        steps=[
            StepDocument.model_construct(
                weight=step.weight_bp,
                hold=step.hold,
                pause=step.pause,
                quality=step.quality,
                gate=_gate_of(step.gate),
            )
            for step in plan.steps
        ],
        deadline=plan.deadline,
        prepare_timeout=plan.prepare_timeout,
    )


def _version_of(version: Version) -> VersionDocument:
    check = version.health_check
    return VersionDocument(
        name=version.name,
        cluster=version.cluster,
        endpoints=[
            f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"
            for endpoint in version.endpoints
        ],
        health_check=HealthCheckDocument(
            path=check.path,
            interval=check.interval,
            timeout=check.timeout,
            healthy_threshold=check.healthy_threshold,
            unhealthy_threshold=check.unhealthy_threshold,
        ),
        connect_timeout=version.connect_timeout,
        model=ModelDocument(
            name=version.model.name, checksum=version.model.checksum, code_version=version.model.code_version
        )
        if version.model
        else None,
    )


def _route_of(route: Route) -> RouteDocument:
    return RouteDocument(
        name=route.name,
        match=MatchDocument(prefix=route.match.prefix, headers=[_header_of(header) for header in route.match.headers]),
        version=route.version,
        split=True if route.version is None else None,
        timeout=route.timeout,
    )


def _header_of(header: HeaderMatch) -> HeaderDocument:
    match header.rule:
        case HeaderRule.EXACT:
            return HeaderDocument(name=header.name, exact=header.value)
        case HeaderRule.REGEX:
            return HeaderDocument(name=header.name, regex=header.value)
        case HeaderRule.PRESENT:
            return HeaderDocument(name=header.name, present=True)
