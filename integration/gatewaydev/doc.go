// Package gatewaydev pins the Gateway API's own conformance suite, its test server and
// the definitions of its kinds. Nothing of Keyway is in it, and Keyway links nothing of it.
package gatewaydev

import (
	_ "sigs.k8s.io/gateway-api/conformance"
)
