{{- /* What the pods of this chart have in common: who they are, and where they run. */ -}}

{{- define "sidecar.podSettings" -}}
serviceAccountName: {{ include "sidecar.serviceAccountName" . }}
automountServiceAccountToken: false
# Variables for every Service of the namespace would be a hundred names that ${NAME} could meet by accident.
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- with .Values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "sidecar.selectorLabels" . | nindent 8 }}
        app.kubernetes.io/component: streams
  {{- end }}
{{- end -}}
