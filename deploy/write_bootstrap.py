"""Write deploy/envoy-bootstrap.yaml, which compose.yaml mounts: `make bootstrap`. A test compares the two."""

import pathlib

import yaml

from controlplane.xds.bootstrap import render_bootstrap

FILE = pathlib.Path(__file__).with_name("envoy-bootstrap.yaml")

HEADER = """\
# The Envoy of compose.yaml is started with this; its listeners, routes, clusters and endpoints come over xDS.
# Written by `make bootstrap` from controlplane/xds/bootstrap.py: change that, not this.
# For an Envoy elsewhere: hueshift bootstrap --node-id ID
"""


def render() -> str:
    """Return the file's text: Envoy `envoy-1`, which finds the control plane by Compose's name for it."""
    content = render_bootstrap(node_id="envoy-1", cluster="hueshift", xds_address="control-plane")
    return HEADER + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=118)


if __name__ == "__main__":
    FILE.write_text(render())
