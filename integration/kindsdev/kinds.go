//go:build kinds

// Package kindsdev pins the modules that have the definitions of the kinds that the chart
// makes and Kubernetes does not know. Nothing is built of it.
package kindsdev

import (
	_ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"
	_ "sigs.k8s.io/gateway-api/pkg/consts"
)
