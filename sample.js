// Three sample keys for MongoDB: token1 (expired at once), token2 (never expires), token3.
//     cat sample.js | mongosh
db.getSiblingDB("cgc").api_keys.insertMany([
  {
    access_level: "COMPLETION",
    secret: "df3e6b0bb66ceaadca4f84cbc371fd66e04d20fe51fc414da8d1b84d31d178de",
    user_id: "user1",
    date_expiry: new Date(),
  },
  {
    access_level: "COMPLETION",
    secret: "d8cc7aed3851ac3338fcc15df3b6807b89125837f77a75b9ecb13ed2afe3b49f",
    user_id: "user2",
    date_expiry: null,
  },
  {
    access_level: "COMPLETION",
    secret: "5d6b091416885eaa91283321b69dc526fc42c97783e4cdfdff7a945e3be1f9ef",
    user_id: "user3",
    date_expiry: new Date("2124-01-01"),
  },
]);
