package certtest_test

import (
	"testing"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
)

func TestTheStateInMemoryKeepsTheContract(t *testing.T) {
	s := certtest.NewState()
	certtest.SharedState(t, func(*testing.T) certs.SharedState { return s })
}
