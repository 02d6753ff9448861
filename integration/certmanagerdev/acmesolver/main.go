// Command acmesolver is what cert-manager's pod for an HTTP-01 challenge runs. It takes
// that pod's arguments; its listener is on loopback and says where it is.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/go-logr/logr"

	"github.com/cert-manager/cert-manager/pkg/issuer/acme/http/solver"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "acmesolver:", err)
		os.Exit(1)
	}
}

func run() error {
	s := &solver.HTTP01Solver{ListenPort: -1}
	flag.StringVar(&s.Domain, "domain", "", "name that is proved")
	flag.StringVar(&s.Token, "token", "", "last part of the challenge's path")
	flag.StringVar(&s.Key, "key", "", "what is answered there")
	flag.Int("listen-port", 0, "the pod's port; not listened on, since it would be one of every address")
	flag.Parse()
	// The handler is made by a call that listens on all addresses. A port that there is
	// not ends that call with the handler made.
	if err := s.Listen(logr.Discard()); s.Handler == nil {
		return fmt.Errorf("making the handler: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	fmt.Println("listening on", l.Addr())
	return (&http.Server{Handler: s.Handler, ReadHeaderTimeout: 10 * time.Second}).Serve(l)
}
