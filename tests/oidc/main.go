// An OpenID provider over TLS on a free port of the loopback: mockoidc, as others use it for their tests. It prints where it is and whom it
// knows as JSON, and ends with its standard input.
package main

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net"
	"os"

	"github.com/oauth2-proxy/mockoidc"
)

func main() {
	pair, err := tls.LoadX509KeyPair(os.Args[1], os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	provider, err := mockoidc.NewServer(nil)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	// It speaks TLS where its listener does, and says so where it has a configuration.
	if err := provider.Start(tls.NewListener(listener, config), config); err != nil {
		log.Fatal(err)
	}
	err = json.NewEncoder(os.Stdout).Encode(map[string]string{
		"issuer": provider.Issuer(), "client": provider.Config().ClientID, "secret": provider.Config().ClientSecret,
	})
	if err != nil {
		log.Fatal(err)
	}
	io.Copy(io.Discard, os.Stdin)
}
