// The embedded storage: versitygw's S3 server on one folder, behind a guard that confines the account of a namespace to
// its own part of the bucket.
//
// versitygw trusts its input: the id of an upload becomes a path, and so do the keys of a batch delete. Therefore only
// requests of known method, parameters and headers pass (requests.go), every key and id is checked where it becomes a path
// (guard.go), and accounts are the files of a mounted Secret (accounts.go), as the certificate is (certificate.go).
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
	region = "us-east-1" // AWS's default, for which clients without a region sign
	// Uploads older than this were abandoned: their client died. S3 would keep them for ever, unseen.
	uploadAge = 7 * 24 * time.Hour
)

func main() {
	listen := flag.String("listen", ":7070", "the address to listen at; without a host all but those of links, which no network policy sees")
	folder := flag.String("data", "/data", "the folder in which each bucket is a folder")
	bucket := flag.String("bucket", "ultramarine", "the bucket that namespaces share; it is created if it does not exist")
	secrets := flag.String("accounts", "/accounts", "a folder of files, each named after an account and holding its secret key")
	certificate := flag.String("tls", "", "a folder with tls.crt and tls.key: https is spoken, and renewed files are read")
	name := flag.String("secret", "", "the Secret mounted there: it is also read from the API server, for accounts newer than the mount")
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

// hostless returns the addresses that one without a host stands for.
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
	for _, one := range own {
		if prefix, ok := one.(*net.IPNet); ok && !prefix.IP.IsLinkLocalUnicast() {
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
		IOBufferSize:        128 << 10, // one for each write under way
	}
	options.SetNewDirPerm(0o750)
	options.SetNewFilePerm(0o640)
	store, err := posix.New(folder, meta.XattrMeta{}, options)
	if err != nil {
		return nil, err
	}
	// versitygw reads its own root account once. Nobody knows this one; ours is an account like the others, of more rights.
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
