"""Renders a chart by Helm's own library: `chart.py CHART`, with the values as JSON on stdin.

Prints one JSON object: `manifests` (text by template) or `error`, and `lint`, what Helm thinks of the chart.
"""

import json
import sys

import helm_python

path = sys.argv[1]
values = json.load(sys.stdin)
said = {"lint": helm_python.lint(path, values=values)["messages"]}
try:
    with helm_python.Chart.load(path) as chart:
        said["manifests"] = chart.render(values, name="relay", namespace="tunnels")
except helm_python.HelmError as error:
    said["error"] = str(error)
print(json.dumps(said))
