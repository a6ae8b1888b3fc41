"""A stand-in for the server of Weights & Biases, on a loopback port: its artifacts, and what a run needs to log them.

`wandb` and its `wandb-core` talk to it as they do to the real one: GraphQL at `/graphql`, files by signed URLs. Queries
are executed against the schema below, so that one which asks for anything else is an error and shows in `problems`. It
was written after the queries in the installed package, and after the documentation where that says what an answer
means; nobody else vouches that the real server behaves like this.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from graphql import DocumentNode, GraphQLError, build_schema, execute_sync, parse, validate

ENTITY = "team"
API_KEY = "0123456789" * 4

SCHEMA = """
scalar JSONString
scalar JSON
scalar DateTime
scalar Duration
scalar Int64

type Query {
  viewer: User
  serverInfo: ServerInfo
  entity(name: String!): Entity
  project(name: String, entityName: String): Project
  model(name: String, entityName: String): Project
  artifact(id: ID!): Artifact
}

type Mutation {
  upsertBucket(input: UpsertBucketInput!): UpsertBucketPayload
  createRunFiles(input: CreateRunFilesInput!): CreateRunFilesPayload
  createArtifact(input: CreateArtifactInput!): CreateArtifactPayload
  createArtifactManifest(input: CreateArtifactManifestInput!): ArtifactManifestPayload
  updateArtifactManifest(input: UpdateArtifactManifestInput!): ArtifactManifestPayload
  createArtifactFiles(input: CreateArtifactFilesInput!): CreateArtifactFilesPayload
  commitArtifact(input: CommitArtifactInput!): ArtifactPayload
  updateArtifact(input: UpdateArtifactInput!): ArtifactPayload
  addAliases(input: AddAliasesInput!): Success
  deleteAliases(input: DeleteAliasesInput!): Success
  linkArtifact(input: LinkArtifactInput!): LinkArtifactPayload
}

type User {
  id: ID!
  entity: String
  username: String
  email: String
  flags: String
  teams: EntityConnection
  admin: Boolean
}
type EntityConnection { edges: [EntityEdge!]! }
type EntityEdge { node: Entity }
type Entity {
  name: String!
  xxhashDigestsEnabled: Boolean
  organization: Organization
  user: OrganizationsOfUser
  id: ID!
}
type OrganizationsOfUser { organizations: [Organization!] }
type Organization { name: String!, orgEntity: Entity, coreWeaveOrganizationId: String }
type ServerInfo { features: [Feature] }
type Feature { name: String!, isEnabled: Boolean! }

type Project {
  id: ID!
  internalId: ID!
  name: String!
  readOnly: Boolean
  entity: Entity!
  bucket(name: String!, missingOk: Boolean): Bucket
  run(name: String!): Bucket
  artifact(name: String!): Artifact
  artifactTypes(after: String, first: Int): ArtifactTypeConnection
  artifactType(name: String!): ArtifactType
  artifactCollection(name: String!): ArtifactCollection
  artifactCollectionMembership(name: String!): ArtifactCollectionMembership
}
type Bucket {
  id: ID!
  name: String!
  state: String
  displayName: String
  description: String
  config: JSONString
  sweepName: String
  project: Project
  historyLineCount: Int
  logLineCount: Int
  eventsLineCount: Int
  historyTail: JSONString
  eventsTail: JSONString
  summaryMetrics: JSONString
  tags: [String!]
  notes: String
  wandbConfig(keys: [String!]): JSONString
}

type PageInfo { endCursor: String, hasNextPage: Boolean! }
type ArtifactTypeConnection { edges: [ArtifactTypeEdge!]!, pageInfo: PageInfo! }
type ArtifactTypeEdge { node: ArtifactType }
type ArtifactType {
  id: ID!
  name: String!
  description: String
  createdAt: DateTime!
  artifactCollections(after: String, first: Int, filters: JSONString, order: String): ArtifactCollectionConnection
  artifactCollection(name: String!): ArtifactCollection
}
type ArtifactCollectionConnection { totalCount: Int!, pageInfo: PageInfo!, edges: [ArtifactCollectionEdge!]! }
type ArtifactCollectionEdge { node: ArtifactCollection }
interface ArtifactCollection {
  id: ID!
  name: String!
  description: String
  createdAt: DateTime!
  updatedAt: DateTime
  project: Project
  defaultArtifactType: ArtifactType!
  tags: TagConnection!
  artifacts(after: String, first: Int, order: String, filters: JSONString): VersionedArtifactConnection
  artifactMembership(aliasName: String): ArtifactCollectionMembership
}
type ArtifactSequence implements ArtifactCollection {
  id: ID!
  name: String!
  description: String
  createdAt: DateTime!
  updatedAt: DateTime
  project: Project
  defaultArtifactType: ArtifactType!
  tags: TagConnection!
  artifacts(after: String, first: Int, order: String, filters: JSONString): VersionedArtifactConnection
  artifactMembership(aliasName: String): ArtifactCollectionMembership
  digestAlgorithm: String
  latestArtifact: Artifact
}
type ArtifactPortfolio implements ArtifactCollection {
  id: ID!
  name: String!
  description: String
  createdAt: DateTime!
  updatedAt: DateTime
  project: Project
  defaultArtifactType: ArtifactType!
  tags: TagConnection!
  artifacts(after: String, first: Int, order: String, filters: JSONString): VersionedArtifactConnection
  artifactMembership(aliasName: String): ArtifactCollectionMembership
}
type TagConnection { edges: [TagEdge!]! }
type TagEdge { node: Tag }
type Tag { id: ID!, name: String! }
type VersionedArtifactConnection { totalCount: Int!, pageInfo: PageInfo!, edges: [VersionedArtifactEdge!]! }
type VersionedArtifactEdge { version: String!, node: Artifact }
type ArtifactAlias { id: ID!, alias: String!, artifactCollection: ArtifactCollection }
type ArtifactCollectionMembership {
  id: ID!
  versionIndex: Int
  createdAt: DateTime!
  aliases: [ArtifactAlias!]!
  artifactCollection: ArtifactCollection
  artifact: Artifact
  files(after: String, first: Int): FileConnection
}
type FileConnection { pageInfo: PageInfo!, edges: [FileEdge!]! }
type FileEdge { node: File }
type File {
  id: ID!
  name: String!
  directUrl: String!
  uploadUrl: String
  uploadHeaders: [String!]
  storagePath: String
  uploadMultipartUrls: MultipartUrls
  artifact: Artifact
}
type MultipartUrls { uploadID: String, uploadUrlParts: [PartUrl!] }
type PartUrl { partNumber: Int64, uploadUrl: String }
type Artifact {
  id: ID!
  artifactSequence: ArtifactSequence!
  versionIndex: Int
  artifactType: ArtifactType!
  description: String
  metadata: JSONString
  ttlDurationSeconds: Int64!
  ttlIsInherited: Boolean!
  tags: [Tag!]!
  historyStep: Int
  state: String!
  size: Int64!
  digest: String!
  digestAlgorithm: String
  commitHash: String
  fileCount: Int64!
  createdAt: DateTime!
  updatedAt: DateTime
  aliases: [ArtifactAlias!]!
  currentManifest: ArtifactManifest
}
type ArtifactManifest { id: ID!, file: File! }

input UpsertBucketInput {
  id: String, name: String, groupName: String, modelName: String, entityName: String, description: String
  displayName: String, notes: String, config: JSONString, commit: String, host: String, debug: Boolean
  jobProgram: String, jobRepo: String, jobType: String, state: String, sweep: String, tags: [String!]
  summaryMetrics: JSONString
}
type UpsertBucketPayload { bucket: Bucket, inserted: Boolean }
input CreateRunFilesInput { entityName: String!, projectName: String!, runName: String!, files: [String!]! }
type CreateRunFilesPayload { runID: ID!, uploadHeaders: [String!]!, files: [File!]! }
input ArtifactAliasInput { artifactCollectionName: String!, alias: String! }
input CreateArtifactInput {
  entityName: String!, projectName: String!, runName: String, artifactTypeName: String!
  artifactCollectionName: String, artifactCollectionNames: [String!], digest: String!, digestAlgorithm: String
  description: String, labels: JSONString, metadata: JSONString, aliases: [ArtifactAliasInput!], tags: [TagInput!]
  distributedID: String, clientID: ID!, sequenceClientID: ID!, enableDigestDeduplication: Boolean
  historyStep: Int64, ttlDurationSeconds: Int64, clientMutationId: String, storageRegion: String
}
input TagInput { tagName: String!, attributes: JSONString }
type CreateArtifactPayload { artifact: Artifact }
input CreateArtifactManifestInput {
  artifactID: ID!, baseArtifactID: ID, name: String!, digest: String!, entityName: String!, projectName: String!
  runName: String!, type: ArtifactManifestType!
}
enum ArtifactManifestType { FULL INCREMENTAL PATCH }
input UpdateArtifactManifestInput { artifactManifestID: ID!, digest: String, baseArtifactID: ID }
type ArtifactManifestPayload { artifactManifest: ArtifactManifest }
input CreateArtifactFilesInput {
  artifactFiles: [ArtifactFileInput!]!, storageLayout: String, digestAlgorithm: String, cloudRegionID: ID
  clientMutationId: String
}
input ArtifactFileInput {
  artifactID: ID!, name: String!, md5: String!, digest: String, mimetype: String, artifactManifestID: ID
  uploadPartsInput: [UploadPartInput!]
}
input UploadPartInput { partNumber: Int64!, hexMD5: String! }
type CreateArtifactFilesPayload { files: FileConnection! }
input CommitArtifactInput { artifactID: ID! }
type ArtifactPayload { artifact: Artifact }
input UpdateArtifactInput {
  artifactID: ID!, description: String, metadata: JSONString, ttlDurationSeconds: Int64
  tagsToAdd: [TagInput!], tagsToDelete: [TagInput!]
}
input CollectionAliasInput {
  entityName: String!, projectName: String!, artifactCollectionName: String!, alias: String!
}
input AddAliasesInput { artifactID: ID!, aliases: [CollectionAliasInput!]! }
input DeleteAliasesInput { artifactID: ID!, aliases: [CollectionAliasInput!]! }
type Success { success: Boolean! }
input LinkArtifactInput {
  artifactPortfolioName: String!, entityName: String!, projectName: String!, aliases: [ArtifactAliasInput!]
  clientID: ID, artifactID: ID
}
type LinkArtifactPayload { versionIndex: Int, artifactMembership: ArtifactCollectionMembership }
"""


class Refused(GraphQLError):
    """What the server refuses, as an error of GraphQL."""


@dataclass
class Alias:
    alias: str
    artifactCollection: Collection

    @property
    def id(self) -> str:
        return f"{self.artifactCollection.id}:{self.alias}"


@dataclass
class Membership:
    """An artifact as one version of a collection."""

    artifactCollection: Collection
    artifact: Artifact
    versionIndex: int
    createdAt: str

    @property
    def id(self) -> str:
        return f"{self.artifactCollection.id}:v{self.versionIndex}"

    @property
    def aliases(self) -> list[Alias]:
        at = self.artifactCollection
        return [Alias(alias, at) for alias, index in at.pointers.items() if index == self.versionIndex]

    def files(self, _: Any, after: str | None = None, first: int | None = None) -> dict[str, Any]:
        return page([self.artifact.file(name) for name in self.artifact.entries()], after, first)


@dataclass
class Collection:
    """A sequence of versions that were logged, or a portfolio of such that were linked."""

    id: str
    name: str
    project: Project
    defaultArtifactType: ArtifactType
    createdAt: str
    portfolio: bool
    members: list[Membership] = field(default_factory=list)
    pointers: dict[str, int] = field(default_factory=dict)
    description: None = None
    updatedAt: None = None
    tags: Any = field(default_factory=lambda: {"edges": []})
    digestAlgorithm: str = "MANIFEST_MD5"

    @property
    def latestArtifact(self) -> Artifact | None:
        return self.members[-1].artifact if self.members else None

    def find(self, alias: str) -> Membership | None:
        index = self.pointers.get(alias)
        found = [one for one in self.members if index == one.versionIndex or alias == f"v{one.versionIndex}"]
        return found[0] if found else None

    def append(self, artifact: Artifact, at: str) -> Membership:
        member = Membership(self, artifact, len(self.members), at)
        self.members.append(member)
        self.pointers["latest"] = member.versionIndex
        return member

    def point(self, alias: str, artifact: Artifact) -> None:
        if not alias or set(alias) & set("/:") or alias.lstrip("v").isdigit():
            raise Refused(f"invalid alias {alias!r}")
        [member] = [one for one in self.members if one.artifact is artifact]
        self.pointers[alias] = member.versionIndex

    def artifactMembership(self, _: Any, aliasName: str) -> Membership | None:
        return self.find(aliasName)

    def artifacts(
        self, _: Any, after: str | None = None, first: int | None = None, order: str | None = None, filters: str = "{}"
    ) -> dict[str, Any]:
        if json.loads(filters) != {"state": "COMMITTED"} or order is not None:
            raise Refused(f"this stand-in knows no filters {filters} with order {order}")
        found = page([one.artifact for one in reversed(self.members)], after, first)
        for edge in found["edges"]:
            [member] = [one for one in self.members if one.artifact is edge["node"]]
            edge["version"] = f"v{member.versionIndex}"
        return found


@dataclass
class ArtifactType:
    name: str
    project: Project
    createdAt: str
    description: None = None

    @property
    def id(self) -> str:
        return f"{self.project.id}/{self.name}"

    def every(self) -> list[Collection]:
        return [one for one in self.project.collections.values() if one.defaultArtifactType is self]

    def artifactCollections(
        self, _: Any, after: str | None = None, first: int | None = None, filters: None = None, order: None = None
    ) -> dict[str, Any]:
        return page(self.every(), after, first)

    def artifactCollection(self, _: Any, name: str) -> Collection | None:
        return next((one for one in self.every() if one.name == name), None)


@dataclass
class Project:
    name: str
    entity: dict[str, Any]
    types: dict[str, ArtifactType] = field(default_factory=dict)
    collections: dict[str, Collection] = field(default_factory=dict)
    buckets: dict[str, dict[str, Any]] = field(default_factory=dict)
    readOnly: bool = False

    @property
    def id(self) -> str:
        return base64.b64encode(f"Project:{self.entity['name']}/{self.name}".encode()).decode()

    internalId = id

    def bucket(self, _: Any, name: str, missingOk: bool = False) -> dict[str, Any] | None:
        return self.buckets.get(name)

    run = bucket

    def type(self, name: str, at: str) -> ArtifactType:
        return self.types.setdefault(name, ArtifactType(name, self, at))

    def artifactTypes(self, _: Any, after: str | None = None, first: int | None = None) -> dict[str, Any]:
        return page(list(self.types.values()), after, first)

    def artifactType(self, _: Any, name: str) -> ArtifactType | None:
        return self.types.get(name)

    def artifactCollection(self, _: Any, name: str) -> Collection | None:
        return self.collections.get(name)

    def artifactCollectionMembership(self, _: Any, name: str) -> Membership | None:
        name, _colon, alias = name.partition(":")
        return self.collections[name].find(alias or "latest") if name in self.collections else None

    def artifact(self, info: Any, name: str) -> Artifact | None:
        found = self.artifactCollectionMembership(info, name)
        return found.artifact if found else None


@dataclass
class Artifact:
    id: str
    server: WandbServer
    artifactSequence: Collection
    digest: str
    metadata: str | None
    ttlDurationSeconds: int
    description: str | None
    createdAt: str
    wanted: list[str]
    state: str = "PENDING"
    versionIndex: int | None = None
    manifest: str | None = None
    tags: tuple[()] = ()
    historyStep: None = None
    digestAlgorithm: str = "MANIFEST_MD5"
    commitHash: str = ""
    updatedAt: None = None

    @property
    def ttlIsInherited(self) -> bool:
        return self.ttlDurationSeconds == -1

    @property
    def artifactType(self) -> ArtifactType:
        return self.artifactSequence.defaultArtifactType

    @property
    def aliases(self) -> list[Alias]:
        return [
            alias
            for collection in self.server.collections()
            for member in collection.members
            if member.artifact is self
            for alias in member.aliases
        ]

    def entries(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.server.storage[self.manifest or ""])["contents"]
        return found

    @property
    def size(self) -> int:
        return sum(entry["size"] for entry in self.entries().values()) if self.state == "COMMITTED" else 0

    @property
    def fileCount(self) -> int:
        return len(self.entries()) if self.state == "COMMITTED" else 0

    @property
    def currentManifest(self) -> dict[str, Any]:
        return {"id": f"{self.id}:manifest", "file": self.server.file("wandb_manifest.json", self.manifest or "")}

    def file(self, name: str) -> dict[str, Any]:
        return self.server.file(name, base64.b64decode(self.entries()[name]["digest"]).hex())


class WandbServer:
    """What the server holds, and how it answers.

    Attributes:
        url: where it listens.
        mutations: the names of those that it was asked for.
        problems: queries that it could not execute, and requests that it does not know.
        storage: the bytes of files and manifests by the hexadecimal MD5 of their content.
        lock: one request at a time.
    """

    def __init__(self) -> None:
        self.url = ""
        self.problems: list[str] = []
        self.mutations: list[str] = []
        self.storage: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self._schema = build_schema(SCHEMA)
        self._documents: dict[str, DocumentNode] = {}
        union = self._schema.type_map["ArtifactCollection"]
        union.resolve_type = lambda value, *_: "ArtifactPortfolio" if value.portfolio else "ArtifactSequence"  # type: ignore[attr-defined]
        self._projects: dict[tuple[str, str], Project] = {}
        self._artifacts: dict[str, Artifact] = {}
        self._ids = itertools.count(1)

    # --- what it holds ----------------------------------------------------------------------------------------------

    def open_project(self, entity: str, name: str) -> Project:
        return self._projects.setdefault((entity, name), Project(name, self.entity(None, entity)))

    def collections(self) -> list[Collection]:
        return [one for project in self._projects.values() for one in project.collections.values()]

    def file(self, name: str, key: str) -> dict[str, Any]:
        url = f"{self.url}/storage/{key}"
        return {"id": key, "name": name, "directUrl": url, "uploadUrl": url, "uploadHeaders": [], "storagePath": key}

    def execute(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        self.mutations += re.findall(r"^mutation (\w+)", query.strip())
        if query not in self._documents:
            document = parse(query)
            if errors := validate(self._schema, document):
                self.problems.append(f"{errors} in {query}")
                return {"errors": [error.formatted for error in errors]}
            self._documents[query] = document
        result = execute_sync(self._schema, self._documents[query], self, variable_values=variables)
        for error in result.errors or ():
            if not isinstance(error.original_error, Refused):
                self.problems.append(f"{error} in {query}")
        return result.formatted  # type: ignore[return-value]

    # --- queries ----------------------------------------------------------------------------------------------------

    def viewer(self, _: Any) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {"id": "VXNlcjox", "entity": ENTITY, "username": "tester", "flags": "{}", "teams": teams}

    def serverInfo(self, _: Any) -> dict[str, Any]:
        features = ["ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE", "ARTIFACT_DIGEST_ALGORITHM"]
        return {"features": [{"name": name, "isEnabled": True} for name in features]}

    def entity(self, _: Any, name: str) -> dict[str, Any]:
        organization = {"name": "org", "orgEntity": {"name": "org"}}
        return {"id": f"entity-{name}", "name": name, "organization": organization, "xxhashDigestsEnabled": False}

    def project(self, _: Any, name: str, entityName: str) -> Project | None:
        return self._projects.get((entityName or ENTITY, name))

    model = project

    def artifact(self, _: Any, id: str) -> Artifact | None:
        return self._artifacts.get(id)

    # --- mutations of a run -----------------------------------------------------------------------------------------

    def upsertBucket(self, _: Any, input: dict[str, Any]) -> dict[str, Any]:
        project = self.open_project(input.get("entityName") or ENTITY, input["modelName"])
        name = input["name"]
        inserted = name not in project.buckets
        bucket = project.buckets.setdefault(
            name, {"id": f"run-{name}", "name": name, "project": project, "historyLineCount": 0}
        )
        bucket |= {key: value for key, value in input.items() if key in ("displayName", "config", "state")}
        return {"bucket": bucket, "inserted": inserted}

    def createRunFiles(self, _: Any, input: dict[str, Any]) -> dict[str, Any]:
        files = [self.file(name, f"run/{input['runName']}/{name}") for name in input["files"]]
        return {"runID": input["runName"], "uploadHeaders": [], "files": files}

    # --- mutations of artifacts -------------------------------------------------------------------------------------

    def createArtifact(self, _: Any, input: dict[str, Any]) -> dict[str, Any]:
        project = self.open_project(input["entityName"], input["projectName"])
        [name] = input.get("artifactCollectionNames") or [input["artifactCollectionName"]]
        now = _now()
        collection = project.collections.get(name)
        if collection is None:
            kind = project.type(input["artifactTypeName"], now)
            collection = project.collections[name] = Collection(self._id("Sequence"), name, project, kind, now, False)
        if collection.portfolio or collection.defaultArtifactType.name != input["artifactTypeName"]:
            raise Refused(f"{name} is of another type")
        latest = collection.latestArtifact
        aliases = [one["alias"] for one in input.get("aliases") or []]
        if input["enableDigestDeduplication"] and latest is not None and latest.digest == input["digest"]:
            for alias in aliases:
                if alias != "latest":
                    collection.point(alias, latest)
            return {"artifact": latest}
        artifact = Artifact(
            self._id("Artifact"),
            self,
            collection,
            input["digest"],
            input.get("metadata"),
            input.get("ttlDurationSeconds") or -1,
            input.get("description"),
            now,
            [alias for alias in aliases if alias != "latest"],
        )
        self._artifacts[artifact.id] = artifact
        return {"artifact": artifact}

    def createArtifactManifest(self, _: Any, input: dict[str, Any]) -> dict[str, Any]:
        self._artifacts[input["artifactID"]].manifest = None
        return self._manifest(input["artifactID"], input["digest"])

    def updateArtifactManifest(self, _: Any, input: dict[str, Any]) -> dict[str, Any]:
        return self._manifest(input["artifactManifestID"].removesuffix(":manifest"), input["digest"])

    def _manifest(self, artifact: str, digest: str) -> dict[str, Any]:
        self._artifacts[artifact].manifest = key = _hex(digest)
        return {"artifactManifest": {"id": f"{artifact}:manifest", "file": self.file("wandb_manifest.json", key)}}

    def createArtifactFiles(self, _: Any, input: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for one in input["artifactFiles"]:
            key = _hex(one["md5"])
            file = self.file(one["name"], key) | {"artifact": self._artifacts[one["artifactID"]]}
            edges.append({"node": file | ({"uploadUrl": None} if key in self.storage else {})})
        return {"files": {"edges": edges, "pageInfo": {"hasNextPage": False}}}

    def commitArtifact(self, _: Any, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self._artifacts[input["artifactID"]]
        missing = [
            name
            for name, entry in artifact.entries().items()
            if "ref" not in entry and artifact.file(name)["id"] not in self.storage
        ]
        if missing:
            raise Refused(f"files were never uploaded: {missing}")
        member = artifact.artifactSequence.append(artifact, artifact.createdAt)
        artifact.state, artifact.versionIndex = "COMMITTED", member.versionIndex
        for alias in artifact.wanted:
            artifact.artifactSequence.point(alias, artifact)
        return {"artifact": artifact}

    def updateArtifact(self, _: Any, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self._artifacts[input["artifactID"]]
        artifact.metadata = input.get("metadata", artifact.metadata)
        artifact.description = input.get("description", artifact.description)
        artifact.ttlDurationSeconds = input.get("ttlDurationSeconds") or artifact.ttlDurationSeconds
        return {"artifact": artifact}

    def addAliases(self, _: Any, input: dict[str, Any]) -> dict[str, bool]:
        for collection, alias in self._pointers(input):
            collection.point(alias, self._artifacts[input["artifactID"]])
        return {"success": True}

    def deleteAliases(self, _: Any, input: dict[str, Any]) -> dict[str, bool]:
        for collection, alias in self._pointers(input):
            del collection.pointers[alias]
        return {"success": True}

    def _pointers(self, input: dict[str, Any]) -> Iterator[tuple[Collection, str]]:
        for one in input["aliases"]:
            project = self._projects[one["entityName"], one["projectName"]]
            yield project.collections[one["artifactCollectionName"]], one["alias"]

    def linkArtifact(self, _: Any, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self._artifacts[input["artifactID"]]
        project = self.open_project(input["entityName"], input["projectName"])
        name, now = input["artifactPortfolioName"], _now()
        kind = project.type(artifact.artifactType.name, now)
        new = Collection(self._id("Portfolio"), name, project, kind, now, True)
        collection = project.collections.setdefault(name, new)
        if not collection.portfolio or collection.defaultArtifactType is not kind:
            raise Refused(f"{name} takes no links to this type")
        member = next((one for one in collection.members if one.artifact is artifact), None)
        member = member or collection.append(artifact, now)
        return {"versionIndex": member.versionIndex, "artifactMembership": member}

    def _id(self, kind: str) -> str:
        return base64.b64encode(f"{kind}:{next(self._ids)}".encode()).decode()


def page(nodes: list[Any], after: str | None, first: int | None) -> dict[str, Any]:
    """A page of a connection; never more than two, so that every reader has to turn pages."""
    start = int(after or 0)
    end = min(start + min(first or 2, 2), len(nodes))
    return {
        "totalCount": len(nodes),
        "pageInfo": {"endCursor": str(end), "hasNextPage": end < len(nodes)},
        "edges": [{"node": node} for node in nodes[start:end]],
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _hex(md5: str) -> str:
    """MD5 as hexadecimal, which comes in Base64."""
    return base64.b64decode(md5, validate=True).hex()


@contextlib.contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server on a free loopback port, empty."""
    state = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer is one write: in two of them, each would wait for the other side to acknowledge the first.
        wbufsize = 64 * 1024

        def do_GET(self) -> None:
            key = urlsplit(self.path).path.removeprefix("/storage/")
            data = state.storage.get(key)
            self._reply(404 if data is None else 200, data or b"")

        def do_PUT(self) -> None:
            key = urlsplit(self.path).path.removeprefix("/storage/")
            data = self._body()
            if not key.startswith("run/") and hashlib.md5(data).hexdigest() != key:
                self._reply(400, b"these are other bytes")
                return
            state.storage[key] = data
            self._reply(200, b"")

        def do_POST(self) -> None:
            data = self._body()
            path = urlsplit(self.path).path
            expected = base64.b64encode(f"api:{API_KEY}".encode()).decode()
            if path == "/graphql":
                if self.headers["Authorization"] != f"Basic {expected}":
                    self._reply(401, b"{}")
                    return
                request = json.loads(data)
                with state.lock:
                    answer = state.execute(request["query"], request.get("variables") or {})
                self._reply(200, json.dumps(answer).encode())
            elif path.endswith("/file_stream"):
                self._reply(200, b"{}")
            else:
                state.problems.append(f"POST {path}")
                self._reply(404, b"{}")

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _reply(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
