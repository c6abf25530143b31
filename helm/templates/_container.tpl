{{- /*
The named templates for pods of other charts, and for the Deployment of this one. Another chart calls them with the
scope of this one, which knows its values:

    initContainers:
      {{- include "sidecar.container" .Subcharts.sidecar | nindent 8 }}
    volumes:
      {{- include "sidecar.volumes" .Subcharts.sidecar | nindent 8 }}
    terminationGracePeriodSeconds: {{ include "sidecar.terminationGracePeriodSeconds" .Subcharts.sidecar }}

(`containers:` in the place of `initContainers:` with `nativeSidecar: false`.)
*/ -}}

{{- /* One item of a list of containers. */ -}}
{{- define "sidecar.container" -}}
- name: sidecar
  image: {{ include "sidecar.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if include "sidecar.native" . }}
  # What makes an init container a sidecar: it goes on running, has probes, and is ended after the application.
  restartPolicy: Always
  {{- end }}
  args: [run, -c, /etc/sidecar/config.yaml]
  {{- with include "sidecar.environment" . }}
  env:
    {{- trim . | nindent 4 }}
  {{- end }}
  ports:
    {{- range (include "sidecar.ports" . | fromJson).ports }}
    - {name: {{ .name }}, containerPort: {{ int .port }}, protocol: TCP}
    {{- end }}
    - {name: sidecar-admin, containerPort: {{ include "sidecar.adminPort" . }}, protocol: TCP}
  startupProbe:
    httpGet: {path: {{ include "sidecar.startupPath" . }}, port: sidecar-admin}
    {{- toYaml .Values.probes.startup | nindent 4 }}
  livenessProbe:
    httpGet: {path: /livez, port: sidecar-admin}
    {{- toYaml .Values.probes.liveness | nindent 4 }}
  readinessProbe:
    httpGet: {path: {{ ternary "/livez" "/readyz" .Values.readyWithoutBroker }}, port: sidecar-admin}
    {{- toYaml .Values.probes.readiness | nindent 4 }}
  lifecycle:
    # A native sidecar hears SIGTERM only after the application has ended, maybe a moment before SIGKILL. Its preStop
    # runs as soon as the pod ends, so the drain begins here; it answers when the last stream has ended.
    preStop:
      httpGet: {path: /drain, port: sidecar-admin}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  volumeMounts:
    {{- include "sidecar.volumeMounts" . | nindent 4 }}
{{- end -}}

{{- define "sidecar.environment" -}}
{{- range $name, $secret := .Values.secretEnv }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      {{- toYaml $secret | nindent 6 }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Whole directories, never a `subPath`: only a directory follows its ConfigMap or Secret. */ -}}
{{- define "sidecar.volumeMounts" -}}
- {name: sidecar-config, mountPath: /etc/sidecar, readOnly: true}
{{- range $directory, $_ := .Values.secretFiles }}
- {name: sidecar-secret-{{ $directory }}, mountPath: /run/secrets/{{ $directory }}, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Items of a pod's list of volumes. */ -}}
{{- define "sidecar.volumes" -}}
- name: sidecar-config
  configMap:
    name: {{ include "sidecar.fullname" . }}
{{- range $directory, $secret := .Values.secretFiles }}
- name: sidecar-secret-{{ $directory }}
  secret:
    secretName: {{ $secret }}
    # Readable by whatever user the pod gives the container; no other container mounts it.
    defaultMode: 0444
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
