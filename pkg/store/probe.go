package store

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// probeAllowed is how long a server may take to answer an SSLRequest, which
// PostgreSQL does before anything else.
const probeAllowed = 2 * time.Second

// Probe returns an error if what listens at the store's address does not speak
// PostgreSQL's protocol. A server of another protocol may wait for the rest of
// a request, so that connecting would only time out. If nothing can be reached
// it returns nil: the error of connecting says more.
func (s *Store) Probe(ctx context.Context) error {
	config := s.config.ConnConfig
	dialing, cancel := context.WithTimeout(ctx, probeAllowed)
	defer cancel()
	conn, err := config.DialFunc(dialing, network(config.Host), address(config.Host, config.Port))
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(probeAllowed)) //nolint:errcheck // then reading fails
	const length, requestTLS = 8, 80877103
	request := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, length), requestTLS)
	var answer [1]byte
	if _, err = conn.Write(request); err == nil {
		_, err = io.ReadFull(conn, answer[:])
	}
	if err == nil && (answer[0] == 'S' || answer[0] == 'N' || answer[0] == 'E') {
		return nil
	}
	return NewProblem(NoConnection, err, "what listens at %s is no PostgreSQL server; check host and port (PostgreSQL's own port is 5432)", address(config.Host, config.Port))
}

func network(host string) string {
	network, _ := pgconn.NetworkAddress(host, 0)
	return network
}

func address(host string, port uint16) string {
	if network(host) == "unix" {
		_, path := pgconn.NetworkAddress(host, port)
		return path
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
