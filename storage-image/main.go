// Embedded storage: versitygw's S3 server on a folder, behind a guard that confines the account of a namespace to its
// part of the bucket.
//
// versitygw trusts its input: the id of an upload becomes a path, and so do the keys of a batch delete. Therefore the
// guard passes only known methods, parameters and headers (requests.go), and checks each key and id (guard.go). Accounts
// and certificate are files of mounted Secrets (accounts.go, certificate.go).
package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/controllers"
	"github.com/versity/versitygw/s3api/middlewares"
)

const (
	region = "us-east-1" // default of AWS, for which clients without a region sign
	// Older uploads are abandoned, because their client has died. S3 would keep them forever.
	uploadAge = 7 * 24 * time.Hour
)

func main() {
	listen := flag.String("listen", ":7070", "address to listen on; without a host, all addresses except link-local ones, which network policies do not cover")
	folder := flag.String("data", "/data", "folder with a folder for each bucket")
	bucket := flag.String("bucket", "ultramarine", "bucket of all namespaces; created if it does not exist")
	secrets := flag.String("accounts", "/accounts", "folder with a file for each account, which has the account's secret key")
	certificate := flag.String("tls", "", "folder with tls.crt and tls.key, which enables TLS; renewed files are loaded")
	name := flag.String("secret", "", "name of the mounted Secret, which is also read from the API server for accounts newer than the mount")
	flag.Parse()

	if err := serve(*listen, *folder, *bucket, *certificate, newAccounts(*secrets, *name)); err != nil {
		log.Fatal(err)
	}
}

func serve(listen, folder, bucket, certificate string, accounts accounts) error {
	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	server, err := newServer(folder, bucket, accounts)
	if err != nil {
		return err
	}
	if certificate != "" {
		if server.CertStorage, err = followCertificate(stopped, certificate); err != nil {
			return err
		}
	}
	go removeAbandoned(stopped, filepath.Join(folder, bucket))
	ended := make(chan error, 1)
	addresses, err := hostless(listen)
	if err != nil {
		return err
	}
	go func() { ended <- server.ServeMultiPort(addresses) }()
	select {
	case err := <-ended:
		return err
	case <-stopped.Done():
		return server.ShutDown() // after the requests under way
	}
}

// hostless returns the addresses of an address without a host.
func hostless(listen string) ([]string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || host != "" {
		return []string{listen}, err
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addresses []string
	for _, address := range own {
		if prefix, ok := address.(*net.IPNet); ok && !prefix.IP.IsLinkLocalUnicast() {
			addresses = append(addresses, net.JoinHostPort(prefix.IP.String(), port))
		}
	}
	return addresses, nil
}

func newServer(folder, bucket string, accounts accounts) (*s3api.S3ApiServer, error) {
	if !isBucketName(bucket) {
		return nil, fmt.Errorf("-bucket %q is not a bucket name: 3 to 63 lower-case letters, digits, dots and hyphens", bucket)
	}
	if _, err := accounts.GetUserAccount(rootName); err != nil {
		return nil, fmt.Errorf("no key of the account %s in %s (%w); add it to the mounted Secret", rootName, accounts.folder, err)
	}
	path := filepath.Join(folder, bucket)
	if err := os.MkdirAll(path, 0o750); err != nil {
		return nil, err
	}
	if err := flush(folder); err != nil {
		return nil, err
	}
	if err := reopenUploads(path); err != nil {
		return nil, err
	}
	options := posix.PosixOpts{
		ValidateBucketNames: true,
		Concurrency:         256,
		CopyObjectThreshold: 5 << 30,
		IOBufferSize:        128 << 10, // for each write in progress
	}
	options.SetNewDirPerm(0o750)
	options.SetNewFilePerm(0o640)
	store, err := posix.New(folder, meta.XattrMeta{}, options)
	if err != nil {
		return nil, err
	}
	// versitygw needs a root account of its own, which is random and unused. The platform's root is in the Secret.
	unused := middlewares.RootUserConfig{Access: rand.Text(), Secret: rand.Text()}
	server, err := s3api.New(
		&guard{store: store, folder: folder, bucket: bucket},
		unused, region, accounts, nil, nil, nil, nil,
		s3api.WithQuiet(),
		s3api.WithKeepAlive(),
		s3api.WithDisableACL(),
		s3api.WithMpMaxParts(maxParts),
		s3api.WithConcurrencyLimiter(8192, 1024),
		s3api.WithRoute("GET", "/healthz", healthy),
		s3api.WithMiddleware("/", readToEnd),
		s3api.WithMiddleware("/", controllers.WrapMiddleware(refuseUnknown, nil, nil)),
		s3api.WithMiddleware("/", admitDocuments()),
	)
	if err == nil {
		limit(server)
	}
	return server, err
}
