{{- /*
What the JSON Schema of the values cannot say, because it takes two values to see. All mistakes are told at once.
Each `sidecar.check.*` prints one mistake a line.
*/ -}}

{{- define "sidecar.check" -}}
{{- $mistakes := list -}}
{{- range list "config" "references" "secrets" "drain" "placement" "standing" -}}
  {{- range splitList "\n" (include (printf "sidecar.check.%s" .) $) -}}
    {{- with trim . -}}{{- $mistakes = append $mistakes (printf "- %s" .) -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- with $mistakes -}}
{{- printf "\n\nThe values of %s do not fit together:\n%s\n" $.Chart.Name (join "\n" .) | fail -}}
{{- end -}}
{{- end -}}

{{- define "sidecar.check.config" -}}
{{- if not .Values.config.routes }}
config.routes is empty: without a route there is no stream; see config.example.yaml for one
{{- end }}
{{- $bind := dig "admin" "bind" "" .Values.config }}
{{- if regexMatch "^(127\\.|localhost|\\[::1\\])" $bind }}
config.admin.bind {{ $bind }} cannot be reached by the kubelet's probes: bind it to 0.0.0.0 or [::] (networkPolicy closes it to others)
{{- else if and $bind (not (regexMatch ":[0-9]+$" $bind)) }}
config.admin.bind {{ $bind }} has no port: the probes need one, as in 0.0.0.0:9400
{{- end }}
{{- if not (include "sidecar.ports" . | fromJson).ports }}
config.listen has no listener with a port: no Service and no container could reach it
{{- end }}
{{- end -}}

{{- /* ${NAME} and ${file:/run/secrets/…} in config must lead somewhere; ${NAME:-default} always does, $$ is a dollar. */ -}}
{{- define "sidecar.check.references" -}}
{{- $given := dict }}
{{- range $name, $_ := .Values.secretEnv }}{{ $_ := set $given $name true }}{{ end }}
{{- range .Values.env }}{{ $_ := set $given .name true }}{{ end }}
{{- $text := toJson .Values.config | replace "$$" "" }}
{{- range regexFindAll "\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}" $text -1 | uniq }}
{{- $name := trimPrefix "${" . | trimSuffix "}" }}
{{- if not (hasKey $given $name) }}
config uses {{ . }}, which nothing gives: set secretEnv.{{ $name }} to {name: SECRET, key: KEY}, or add {{ $name }} to env
{{- end }}
{{- end }}
{{- range regexFindAll "\\$\\{file:/run/secrets/[^/}]+" $text -1 | uniq }}
{{- $directory := trimPrefix "${file:/run/secrets/" . }}
{{- if not (hasKey $.Values.secretFiles $directory) }}
config uses {{ . }}/…}, which is not mounted: set secretFiles.{{ $directory }} to the name of the Secret
{{- end }}
{{- end }}
{{- end -}}

{{- /* config becomes a ConfigMap, which many may read. */ -}}
{{- define "sidecar.check.secrets" -}}
{{- if regexMatch "amqps?://[^/@\" ]*:[^@$\" ]+@" (toJson .Values.config.broker) }}
config.broker.url holds a password in clear, and a ConfigMap is not a secret: put the URL into a Secret, name it in secretEnv.AMQP_URL and write ${AMQP_URL}
{{- end }}
{{- range $place := prepend (default list .Values.config.routes) (default dict .Values.config.defaults) }}
{{- $secret := dig "access" "jwt" "keys" "secret" "" $place }}
{{- if and $secret (not (hasPrefix "${" $secret)) }}
config: access.jwt.keys.secret of {{ default "defaults" $place.path }} stands in clear, and a ConfigMap is not a secret: mount it by secretFiles and write ${file:/run/secrets/…}
{{- end }}
{{- end }}
{{- end -}}

{{- define "sidecar.check.drain" -}}
{{- $drain := include "sidecar.drainSeconds" . }}
{{- $grace := .Values.terminationGracePeriodSeconds }}
{{- if and (not $drain) (not $grace) }}
config.drain.within {{ dig "drain" "within" "" .Values.config }} is not a plain duration, so the grace period cannot follow from it: write one, like 20s, or set terminationGracePeriodSeconds
{{- else if and $drain $grace (le (int $grace) (int $drain)) }}
terminationGracePeriodSeconds {{ int $grace }} ends the pod before config.drain.within ({{ $drain }} s) has passed: leave it out, and it is {{ add $drain .Values.terminationMargin }}
{{- end }}
{{- end -}}

{{- define "sidecar.check.placement" -}}
{{- if and (include "sidecar.native" .) (semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version) }}
nativeSidecar needs Kubernetes 1.29 and this is {{ .Capabilities.KubeVersion.Version }}: set nativeSidecar to false
{{- end }}
{{- if not .Values.standalone }}
{{- $unused := dict "ingress.enabled" .Values.ingress.enabled "httpRoute.enabled" .Values.httpRoute.enabled "autoscaling.enabled" .Values.autoscaling.enabled "application.containers" .Values.application.containers "test.path" .Values.test.path }}
{{- range $name, $value := $unused }}
{{- if $value }}
{{ $name }} does nothing with standalone: false: the pods and what leads to them are the other chart's
{{- end }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not .Values.podSelector) }}
serviceMonitor.enabled with standalone: false needs podSelector, the labels of the other chart's pods
{{- end }}
{{- else if .Values.podSelector }}
podSelector does nothing with standalone: true: the chart knows its own pods
{{- end }}
{{- end -}}

{{- define "sidecar.check.standing" -}}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.cpu) (not .Values.autoscaling.subscribers) }}
autoscaling.enabled without a target: set autoscaling.cpu or autoscaling.subscribers
{{- end }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
autoscaling.minReplicas is above autoscaling.maxReplicas
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
httpRoute.enabled without httpRoute.parentRefs: a route belongs to a Gateway
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
ingress.enabled without ingress.hosts: name at least one host
{{- end }}
{{- if and .Values.test.path (not .Values.test.exchange) }}
test.path without test.exchange: the test publishes a message that must come out of the stream
{{- end }}
{{- $many := or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) }}
{{- $memory := contains "memory:" (toJson .Values.config.broker) }}
{{- if and .Values.standalone $memory $many }}
config.broker.url memory:// is a broker inside each pod, and the pods do not hear each other: use RabbitMQ, or replicas: 1 without autoscaling
{{- end }}
{{- if and .Values.test.path (ne (include "sidecar.servicePortName" .) "events") }}
test.path without a listener that speaks plain HTTP: the certificate is not for the Service's name inside the cluster
{{- end }}
{{- if and $memory .Values.test.path }}
test.path with memory://: the test's pod cannot publish to a broker inside another one
{{- end }}
{{- end -}}
