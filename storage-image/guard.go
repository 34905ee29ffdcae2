package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

const maxKeyLength = 1024

var bucketPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`) // as in the chart's schema

var uploadID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// guard has the operations of versitygw's backend that clients of the platform use; others are not implemented. It checks
// all values that become paths, decides what an account may do, and answers a write when it is on the disk.
type guard struct {
	backend.BackendUnsupported
	store  *posix.Posix
	folder string // parent of the bucket's folder
	bucket string // shared by all accounts except root
}

func (g *guard) String() string { return "guarded posix" }
func (g *guard) Shutdown()      { g.store.Shutdown() }

// NormalizeObjectKey returns the key that the file system will open, for the comparison with a policy.
func (g *guard) NormalizeObjectKey(bucket, key string) string {
	return g.store.NormalizeObjectKey(bucket, key)
}

// statement of a policy.
type statement map[string]any

// GetBucketPolicy returns a policy of the requesting account alone. versitygw calls it for each request, so no policy is
// stored, and no policy can be changed.
func (g *guard) GetBucketPolicy(ctx context.Context, bucket string) ([]byte, error) {
	account, _ := ctx.Value("account").(auth.Account)
	scope := scopeOf(account.Access)
	if bucket != g.bucket || account.Access != operatorName && scope == nil {
		return nil, s3err.GetAPIError(s3err.ErrNoSuchBucketPolicy) // The ACL then allows root alone.
	}
	arn := "arn:aws:s3:::" + bucket
	may := func(resource string, condition map[string]any, actions ...string) statement {
		made := statement{"Effect": "Allow", "Principal": account.Access, "Action": actions, "Resource": arn + resource}
		if condition != nil {
			made["Condition"] = condition
		}
		return made
	}
	if scope == nil {
		return policy(may("/*", nil, "s3:GetObject"), may("/*/"+records+"*", nil, "s3:PutObject"), may("", nil, "s3:ListBucket"))
	}
	var statements []statement
	var listed []string
	for _, key := range scope.Read {
		if strings.HasSuffix(key, "/") {
			key += "*"
		} else {
			listed = append(listed, key+"/") // the listing shows whether the key is a folder
		}
		listed = append(listed, key)
		statements = append(statements, may("/"+key, nil, "s3:GetObject"))
	}
	for _, prefix := range scope.Write {
		statements = append(statements, may("/"+prefix+"*", nil, "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"))
	}
	if len(listed) == 0 {
		return nil, s3err.GetAPIError(s3err.ErrNoSuchBucketPolicy)
	}
	below := map[string]any{"StringLike": map[string]any{"s3:prefix": listed}}
	return policy(append(statements, may("", below, "s3:ListBucket"))...)
}

func policy(statements ...statement) ([]byte, error) {
	return json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
}

// GetBucketAcl returns an ACL that gives every bucket to root alone.
func (g *guard) GetBucketAcl(_ context.Context, input *s3.GetBucketAclInput) ([]byte, error) {
	if bucket, err := os.Stat(filepath.Join(g.folder, *input.Bucket)); err != nil || !bucket.IsDir() {
		return nil, s3err.GetBucketErr(s3err.ErrNoSuchBucket, *input.Bucket)
	}
	return json.Marshal(auth.ACL{Owner: rootName})
}

// Buckets have no CORS rules, locks or versions.
func (g *guard) GetBucketCors(context.Context, string) ([]byte, error) {
	return nil, s3err.GetAPIError(s3err.ErrNoSuchCORSConfiguration)
}

func (g *guard) GetObjectLockConfiguration(context.Context, string) ([]byte, error) {
	return nil, s3err.GetAPIError(s3err.ErrObjectLockConfigurationNotFound)
}

func (g *guard) GetBucketVersioning(context.Context, string) (s3response.GetBucketVersioningOutput, error) {
	return s3response.GetBucketVersioningOutput{}, nil
}

// ListBuckets names the shared bucket to every account.
func (g *guard) ListBuckets(context.Context, s3response.ListBucketsInput) (s3response.ListAllMyBucketsResult, error) {
	var created time.Time
	if bucket, err := os.Stat(filepath.Join(g.folder, g.bucket)); err == nil {
		created = bucket.ModTime()
	}
	var result s3response.ListAllMyBucketsResult
	result.Owner.ID = rootName
	result.Buckets.Bucket = []s3response.ListAllMyBucketsEntry{{Name: g.bucket, CreationDate: created}}
	return result, nil
}

func (g *guard) HeadBucket(ctx context.Context, input *s3.HeadBucketInput) (*s3.HeadBucketOutput, error) {
	return g.store.HeadBucket(ctx, input)
}

func (g *guard) ListObjects(ctx context.Context, input *s3.ListObjectsInput) (s3response.ListObjectsResult, error) {
	if err := checkPrefixes(input.Prefix, input.Marker, input.Delimiter); err != nil {
		return s3response.ListObjectsResult{}, err
	}
	return g.store.ListObjects(ctx, input)
}

func (g *guard) ListObjectsV2(ctx context.Context, input *s3.ListObjectsV2Input) (s3response.ListObjectsV2Result, error) {
	if err := checkPrefixes(input.Prefix, input.StartAfter, input.ContinuationToken, input.Delimiter); err != nil {
		return s3response.ListObjectsV2Result{}, err
	}
	return g.store.ListObjectsV2(ctx, input)
}

func (g *guard) HeadObject(ctx context.Context, input *s3.HeadObjectInput) (*s3.HeadObjectOutput, error) {
	if err := g.object(input.Bucket, input.Key, input.VersionId); err != nil {
		return nil, err
	}
	return g.store.HeadObject(ctx, input)
}

func (g *guard) GetObject(ctx context.Context, input *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	if err := g.object(input.Bucket, input.Key, input.VersionId); err != nil {
		return nil, err
	}
	return g.store.GetObject(ctx, input)
}

func (g *guard) PutObject(ctx context.Context, input s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	if err := cmp.Or(g.object(input.Bucket, input.Key, nil), mayPut(ctx, input.Key, input.IfNoneMatch)); err != nil {
		return s3response.PutObjectOutput{}, err
	}
	output, err := g.store.PutObject(ctx, input)
	if err == nil {
		err = g.persist(*input.Bucket, *input.Key)
	}
	return output, err
}

func (g *guard) CopyObject(ctx context.Context, input s3response.CopyObjectInput) (s3response.CopyObjectOutput, error) {
	if err := cmp.Or(g.object(input.Bucket, input.Key, nil), g.source(input.CopySource), mayChange(ctx, input.Key)); err != nil {
		return s3response.CopyObjectOutput{}, err
	}
	output, err := g.store.CopyObject(ctx, input)
	if err == nil {
		err = g.persist(*input.Bucket, *input.Key)
	}
	return output, err
}

func (g *guard) DeleteObject(ctx context.Context, input *s3.DeleteObjectInput) (*s3.DeleteObjectOutput, error) {
	if err := cmp.Or(g.object(input.Bucket, input.Key, input.VersionId), mayChange(ctx, input.Key)); err != nil {
		return nil, err
	}
	output, err := g.store.DeleteObject(ctx, input)
	if err == nil {
		err = g.persist(*input.Bucket, *input.Key)
	}
	return output, err
}

// DeleteObjects refuses the whole batch if one of its keys is not valid.
func (g *guard) DeleteObjects(ctx context.Context, input *s3.DeleteObjectsInput) (s3response.DeleteResult, error) {
	if len(input.Delete.Objects) > maxBatch {
		return s3response.DeleteResult{}, invalid("the batch", "it names at most 1,000 keys")
	}
	for _, object := range input.Delete.Objects {
		if err := cmp.Or(g.object(input.Bucket, object.Key, object.VersionId), mayChange(ctx, object.Key)); err != nil {
			return s3response.DeleteResult{}, err
		}
	}
	result, err := g.store.DeleteObjects(ctx, input)
	if err != nil {
		return result, err
	}
	flushed := map[string]bool{}
	for _, object := range input.Delete.Objects {
		folder := filepath.Dir(*object.Key)
		if !flushed[folder] {
			if err := g.persist(*input.Bucket, folder); err != nil {
				return result, err
			}
			flushed[folder] = true
		}
	}
	return result, nil
}

func (g *guard) CreateMultipartUpload(
	ctx context.Context, input s3response.CreateMultipartUploadInput,
) (s3response.InitiateMultipartUploadResult, error) {
	if err := cmp.Or(g.object(input.Bucket, input.Key, nil), mayChange(ctx, input.Key)); err != nil {
		return s3response.InitiateMultipartUploadResult{}, err
	}
	return g.store.CreateMultipartUpload(ctx, input)
}

func (g *guard) UploadPart(ctx context.Context, input *s3.UploadPartInput) (*s3.UploadPartOutput, error) {
	if err := g.upload(input.Bucket, input.Key, input.UploadId); err != nil {
		return nil, err
	}
	return g.store.UploadPart(ctx, input)
}

func (g *guard) UploadPartCopy(ctx context.Context, input *s3.UploadPartCopyInput) (s3response.CopyPartResult, error) {
	if err := cmp.Or(g.upload(input.Bucket, input.Key, input.UploadId), g.source(input.CopySource)); err != nil {
		return s3response.CopyPartResult{}, err
	}
	return g.store.UploadPartCopy(ctx, input)
}

func (g *guard) AbortMultipartUpload(ctx context.Context, input *s3.AbortMultipartUploadInput) error {
	if err := g.upload(input.Bucket, input.Key, input.UploadId); err != nil {
		return err
	}
	return g.store.AbortMultipartUpload(ctx, input)
}

func (g *guard) CompleteMultipartUpload(
	ctx context.Context, input *s3.CompleteMultipartUploadInput,
) (s3response.CompleteMultipartUploadResult, string, error) {
	if err := g.upload(input.Bucket, input.Key, input.UploadId); err != nil {
		return s3response.CompleteMultipartUploadResult{}, "", err
	}
	result, version, err := g.store.CompleteMultipartUpload(ctx, input)
	if err != nil {
		return result, version, err
	}
	// versitygw answers a repeated request before the first request has created the object.
	made, err := g.store.HeadObject(ctx, &s3.HeadObjectInput{Bucket: input.Bucket, Key: input.Key})
	if err != nil || made.ETag == nil || result.ETag == nil || *made.ETag != *result.ETag {
		return s3response.CompleteMultipartUploadResult{}, "", s3err.GetAPIError(s3err.ErrSlowDown)
	}
	return result, version, g.persist(*input.Bucket, *input.Key)
}

// persist flushes an object and the folders above it to the disk; a deleted object's folders alone.
func (g *guard) persist(bucket, key string) error {
	top := filepath.Join(g.folder, bucket)
	for path := filepath.Join(top, key); len(path) >= len(top); path = filepath.Dir(path) {
		if err := flush(path); err != nil {
			return err
		}
	}
	return nil
}

func flush(path string) error {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // deleted, alone or with its folder
	}
	if err != nil {
		return err
	}
	defer file.Close()
	return file.Sync()
}

// object returns an error for an invalid key or bucket name, and for a version, since objects have none.
func (g *guard) object(bucket, key, version *string) error {
	if bucket == nil || !isBucketName(*bucket) {
		return invalid("the bucket's name", "3 to 63 lower-case letters, digits, dots and hyphens are allowed")
	}
	if version != nil && *version != "" && *version != "null" {
		return invalid("versionId", "objects have no versions here")
	}
	if key == nil || !isPlainKey(strings.TrimSuffix(*key, "/")) {
		return invalid("the key", keyRules)
	}
	return nil
}

func (g *guard) upload(bucket, key, id *string) error {
	if id == nil || !uploadID.MatchString(*id) {
		return invalid("uploadId", "use the id of the created upload")
	}
	return g.object(bucket, key, nil)
}

// source returns an error for an invalid source of a copy, parsed as versitygw parses it.
func (g *guard) source(header *string) error {
	if header == nil {
		return invalid("x-amz-copy-source", "name a bucket and a key")
	}
	bucket, key, version, err := backend.ParseCopySource(*header)
	if err != nil {
		return err
	}
	return g.object(&bucket, &key, &version)
}

// checkPrefixes returns an error for a prefix or marker of a listing that could lead out of a folder.
func checkPrefixes(texts ...*string) error {
	for _, text := range texts {
		if text != nil && !isPrefix(*text) {
			return invalid("the prefix or marker", keyRules)
		}
	}
	return nil
}

func isBucketName(name string) bool {
	return bucketPattern.MatchString(name) && !strings.Contains(name, "..")
}

// isPrefix reports whether a text is the prefix of a key: a folder, with or without the prefix of a name in it.
func isPrefix(text string) bool {
	folder, name := "", text
	if at := strings.LastIndexByte(text, '/'); at >= 0 {
		folder, name = text[:at], text[at+1:]
	}
	return (folder == "" || isPlainKey(folder)) && (name == "" || isPlainKey(name)) && !strings.HasPrefix(text, "//")
}

const keyRules = "empty, '.' and '..' segments, backslashes and control characters are not allowed, nor more than 1,024 bytes"

// isPlainKey reports whether a key is the path of a file below its bucket, and not a file of versitygw's.
func isPlainKey(key string) bool {
	if len(key) > maxKeyLength || !utf8.ValidString(key) {
		return false
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.HasPrefix(segment, posix.MetaTmpDir) {
			return false
		}
	}
	return !strings.ContainsFunc(key, func(letter rune) bool { return letter == '\\' || unicode.IsControl(letter) })
}

// notOffered returns the error of a feature that other S3 servers have.
func notOffered(feature string) error {
	return s3err.APIError{Code: "AccessDenied", Description: feature + " is not offered here", HTTPStatusCode: 403}
}

// invalid returns the error of an invalid value, with the valid ones.
func invalid(name, valid string) error {
	return s3err.APIError{Code: "InvalidArgument", Description: name + " is not valid: " + valid, HTTPStatusCode: 400}
}

var _ backend.Backend = (*guard)(nil)
