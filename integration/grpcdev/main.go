// Command grpcdev is gRPC's own interoperability test: the server and the client of
// grpc-go's suite. It is a module of its own; Keyway never links it.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

func main() {
	var (
		listen = flag.String("listen", "", "serve at this address, until SIGTERM")
		cert   = flag.String("cert", "", "file of the server's certificate; none serves in clear")
		key    = flag.String("key", "", "file of the server's key")
		dial   = flag.String("dial", "", "run one case against this address")
		name   = flag.String("case", "", "the case")
		ca     = flag.String("ca", "", "file of the CA that signed what the address shows; none speaks in clear")
		server = flag.String("server-name", "", "name that the address proves, or is asked for in clear")
	)
	flag.Parse()
	var err error
	switch {
	case *listen != "":
		err = serve(*listen, *cert, *key)
	case *dial != "":
		err = run(*dial, *name, *ca, *server)
	default:
		err = fmt.Errorf("expected -listen or -dial")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "grpcdev:", err)
		os.Exit(1)
	}
}

func serve(listen, cert, key string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	var options []grpc.ServerOption
	if cert != "" {
		c, err := credentials.NewServerTLSFromFile(cert, key)
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(c))
	}
	s := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, s.Stop)
	fmt.Println("ready", l.Addr())
	return s.Serve(l)
}

// run runs one case. The suite ends the process where one fails.
func run(addr, name, ca, server string) error {
	c := insecure.NewCredentials()
	if ca != "" {
		var err error
		if c, err = credentials.NewClientTLSFromFile(ca, server); err != nil {
			return err
		}
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(c)}
	if ca == "" && server != "" {
		options = append(options, grpc.WithAuthority(server))
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, options...)
	if err != nil {
		return err
	}
	defer conn.Close()
	tests := testgrpc.NewTestServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cases := map[string]func(){
		"empty_unary":                 func() { interop.DoEmptyUnaryCall(ctx, tests) },
		"large_unary":                 func() { interop.DoLargeUnaryCall(ctx, tests) },
		"client_streaming":            func() { interop.DoClientStreaming(ctx, tests) },
		"server_streaming":            func() { interop.DoServerStreaming(ctx, tests) },
		"ping_pong":                   func() { interop.DoPingPong(ctx, tests) },
		"empty_stream":                func() { interop.DoEmptyStream(ctx, tests) },
		"timeout_on_sleeping_server":  func() { interop.DoTimeoutOnSleepingServer(ctx, tests) },
		"cancel_after_begin":          func() { interop.DoCancelAfterBegin(ctx, tests) },
		"cancel_after_first_response": func() { interop.DoCancelAfterFirstResponse(ctx, tests) },
		"status_code_and_message":     func() { interop.DoStatusCodeAndMessage(ctx, tests) },
		"special_status_message":      func() { interop.DoSpecialStatusMessage(ctx, tests) },
		"custom_metadata":             func() { interop.DoCustomMetadata(ctx, tests) },
		"unimplemented_method":        func() { interop.DoUnimplementedMethod(ctx, conn) },
		"unimplemented_service":       func() { interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn)) },
	}
	do := cases[name]
	if do == nil {
		return fmt.Errorf("no case is called %q", name)
	}
	do()
	fmt.Println("passed", name)
	return nil
}
