#!/bin/sh
# Isolates one pod, from any SIEM that can run kubectl:
#   from-siem.sh INCIDENT NAMESPACE POD TIME-OF-THE-ALERT | kubectl create -f -
#   from-siem.sh 4711 shop web-7d9c-x2x 2026-11-23T03:12:00Z | kubectl create -f -
# The same arguments make the same name, so the second time kubectl says that it exists. To release it:
#   kubectl --namespace incident-response patch incidentresponse NAME --type merge --patch '{"spec":{"release":true}}'
# Arguments that are anything but names are refused here: an alert's strings are an attacker's.
set -eu
[ $# -eq 4 ] || { echo "usage: $0 INCIDENT NAMESPACE POD TIME" >&2; exit 2; }
for argument in "$@"; do
  case $argument in
    '' | *[!A-Za-z0-9.:-]*) echo "$0: an argument has other characters than letters, digits, '.', ':' and '-'" >&2; exit 2 ;;
  esac
done
hash=$(printf '%s\n' "$1" "$2" "$3" | sha256sum | cut -c1-16)
cat <<MANIFEST
apiVersion: tourniquet.dev/v1alpha1
kind: IncidentResponse
metadata:
  name: siem-isolate-$hash
  namespace: incident-response
spec:
  incident: {id: "$1", source: siem}
  target:
    pod: {namespace: "$2", name: "$3", createdBefore: "$4"}
  actions:
  - isolate: {}
MANIFEST
