package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
)

// clientConfig is what this program's own clients offer: the defaults of Go with mlkem,
// X25519 alone without.
func clientConfig(mlkem bool) *tls.Config {
	config := &tls.Config{InsecureSkipVerify: true, ServerName: "bench.example.com", MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	if !mlkem {
		config.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	return config
}

// handshakes opens n connections of one request each and answers how many failed and
// how many were resumed, after telling why the first one failed. Of resumed ones, a full
// handshake has failed too, but for the first, which has no ticket yet; of full ones, a
// resumed one.
func handshakes(kind, address string, n int, mlkem bool) run {
	config := clientConfig(mlkem)
	if kind == "resumed" {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(16)
	}
	r := run{Requests: n}
	began := time.Now()
	for i := range n {
		state, err := oneRequest(address, config)
		switch {
		case err != nil:
		case kind == "resumed" && i > 0 && !state.DidResume:
			err = errors.New("the session was not resumed")
		case kind != "resumed" && state.DidResume:
			err = errors.New("the session was resumed")
		case i == n-1:
			r.TLS = suite(state)
		}
		if state.DidResume {
			r.Resumed++
		}
		if err != nil {
			if r.Failed == 0 {
				fmt.Fprintf(os.Stderr, "connection %d: %v\n", i, err)
			}
			r.Failed++
		}
	}
	r.Rate = float64(n) / time.Since(began).Seconds()
	return r
}

// suite names what a connection has agreed on.
func suite(state tls.ConnectionState) string {
	return fmt.Sprintf("%s %s %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), state.CurveID)
}

// oneRequest connects, asks for the small file and answers what the connection was.
func oneRequest(address string, config *tls.Config) (state tls.ConnectionState, err error) {
	raw, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return state, fmt.Errorf("connecting: %w", err)
	}
	c := tls.Client(raw, config)
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET /1k HTTP/1.1\r\nHost: bench.example.com\r\nConnection: close\r\n\r\n"); err != nil {
		return state, fmt.Errorf("sending: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return state, fmt.Errorf("reading: %w", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return state, fmt.Errorf("reading the body: %w", err)
	}
	if resp.StatusCode != http.StatusOK || len(body) != 1024 {
		return state, fmt.Errorf("the answer is %d with %d bytes, not 200 with 1024", resp.StatusCode, len(body))
	}
	return c.ConnectionState(), nil
}

// selfSigned makes a P-256 certificate for names.
func selfSigned(names ...string) (certPEM, keyPEM string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("making a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return "", "", fmt.Errorf("making a serial number: %w", err)
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(90 * 24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return "", "", fmt.Errorf("making a certificate: %w", err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", fmt.Errorf("encoding a key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd})), nil
}
