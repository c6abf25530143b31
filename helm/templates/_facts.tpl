{{- /* Facts that follow from `config`; each is written once, here. */ -}}

{{- /* The listeners that have a port, as JSON: {"ports": [{"name": …, "port": …}]}. The first without TLS is called
`events`, the first with TLS `events-tls`; the Service knows these two. The names are not `http`, because the
application in the same pod may have called its own port so. */ -}}
{{- define "sidecar.ports" -}}
{{- $ports := list -}}
{{- $taken := dict -}}
{{- range $number, $listener := default (list (dict "bind" "0.0.0.0:8080")) .Values.config.listen -}}
  {{- with regexFind ":[0-9]+$" $listener.bind -}}
    {{- $name := ternary "events-tls" "events" (not (empty $listener.tls)) -}}
    {{- if hasKey $taken $name -}}{{- $name = printf "events-%d" $number -}}{{- end -}}
    {{- $_ := set $taken $name true -}}
    {{- $ports = append $ports (dict "name" $name "port" (trimPrefix ":" . | int)) -}}
  {{- end -}}
{{- end -}}
{{- dict "ports" $ports | toJson -}}
{{- end -}}

{{- define "sidecar.adminPort" -}}
{{- regexFind "[0-9]+$" (dig "admin" "bind" "0.0.0.0:9400" .Values.config) -}}
{{- end -}}

{{- /* `drain.within` in whole seconds, rounded up; nothing where it is not a plain duration. */ -}}
{{- define "sidecar.drainSeconds" -}}
{{- $within := toString (dig "drain" "within" "20s" .Values.config) -}}
{{- if regexMatch "^[0-9]+(\\.[0-9]+)?(ms|s|m|h|d)$" $within -}}
  {{- $number := regexFind "^[0-9.]+" $within | float64 -}}
  {{- $unit := regexFind "[a-z]+$" $within -}}
  {{- mulf $number (get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) $unit) | ceil | int -}}
{{- end -}}
{{- end -}}

{{- /* The pod's grace period. Beside another chart's containers: the pod template's `terminationGracePeriodSeconds`. */ -}}
{{- define "sidecar.terminationGracePeriodSeconds" -}}
{{- with .Values.terminationGracePeriodSeconds -}}
  {{- int . -}}
{{- else -}}
  {{- add (include "sidecar.drainSeconds" . | int) (int .Values.terminationMargin) -}}
{{- end -}}
{{- end -}}

{{- /* "true" where the sidecar runs as an init container that goes on running. */ -}}
{{- define "sidecar.native" -}}
{{- if and .Values.nativeSidecar (or (not .Values.standalone) .Values.application.containers) -}}true{{- end -}}
{{- end -}}

{{- /* A pod on its own has started once it has reached the broker, so that a rollout with a wrong URL stops at its first
pod; beside an application the sidecar must not keep the application from starting. */ -}}
{{- define "sidecar.startupPath" -}}
{{- ternary "/readyz" "/livez" (and .Values.standalone .Values.readyWithoutBroker (not .Values.application.containers)) -}}
{{- end -}}

{{- /* The Service's port for what stands in front: without TLS where there is one. */ -}}
{{- define "sidecar.servicePortName" -}}
{{- $names := list -}}
{{- range (include "sidecar.ports" . | fromJson).ports -}}{{- $names = append $names .name -}}{{- end -}}
{{- ternary "events" "events-tls" (has "events" $names) -}}
{{- end -}}

{{- define "sidecar.servicePort" -}}
{{- ternary .Values.service.port .Values.service.tlsPort (eq (include "sidecar.servicePortName" .) "events") -}}
{{- end -}}

{{- /* Which samples are this release's. */ -}}
{{- define "sidecar.samples" -}}
{{- default (printf "namespace=\"%s\",job=\"%s-metrics\"" .Release.Namespace (include "sidecar.fullname" .)) .Values.prometheusRule.selector -}}
{{- end -}}
