// Package alerts tests what the chart gives to Prometheus and Grafana: the alerts in charts/podtoken/files/alerts.yaml with
// Prometheus's own code, the dashboard beside it, and the monitors with the types of the Prometheus operator.
//
// Package picture beside it draws the dashboard from a recording of a real cluster, for docs/operations.md.
//
// It is a module of its own, because nothing of podtoken may link a Prometheus.
package alerts
